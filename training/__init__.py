"""How the built-in model is made: the pictures, their captions, the training, the measurement."""
