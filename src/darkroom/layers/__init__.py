"""The parts that networks are made of.

A network calls these modules and functions and nothing device-specific; what is fast on a device is chosen
behind them, never in a network. The seam, which a faster implementation has to keep:

GroupNorm(channels, eps)(x, shift=None, conv_bias=None)      norm over 32 groups of x + shift + conv_bias;
                                                             x (b, c, h, w), shift (b, c), conv_bias (c,)
GroupNormSiLU(channels, eps)(x, shift=None, conv_bias=None)  the same, followed by SiLU
pixel_norm(x, gamma, conv_bias=None, silu=False)         RMS norm of each pixel's x + conv_bias, then SiLU
LayerNorm(width)(x)                          norm over the last axis
Linear(width_in, width_out, bias)(x, residual=None)      x W^T + b, plus residual
project(x, linears)                          several Linears of one input, one product where they are joined
Parts(outputs, inputs, counts)               what of a module several devices can share (layers.parts)
SummedLinear                                 stands in for Linear where each device has some of its inputs
PackedLinear, PackedEmbedding                stand in for Linear and nn.Embedding while weights stay quantized
matrix_of(layer, x)                          W of a Linear, packed or not, for what is fused with a product
Conv2d(c_in, c_out, kernel, stride, padding)(x, residual=None, add_bias=True)
                                             convolution, plus residual (b, c, h, w)
UpsampleConv2d(c_in, c_out)(x)               nearest-neighbour doubling and a 3x3 convolution
CausalConv3d(c_in, c_out, kernel)(x, residual=None, add_bias=True)
                                             convolution over frames (b, c, t, h, w), 2-D for pictures
join(x, skip)                                the channels of both
GEGLU(width_in, width_out)(x)                a * gelu(g) of one projection
attention(q, k, v, mask=None, scale=None)    softmax(q k^T / sqrt(d)) v, all (b, n, l, d) of any strides
embedding(rows, width)                       a table of vectors, nn.Embedding
timestep_embedding(t, width)                 (b,) -> (b, width) float32

RMSNorm(width, eps)(x), rms_norm(x, weight, eps)         root-mean-square norm over the last axis
modulated_layer_norm(x, shift, scale, eps)   layer norm without weights, times 1 + scale, plus shift
modulated_rms_norm(x, weight, scale, eps)    rms norm times 1 + scale
gated_residual(x, gate, y)                   x + gate * y
gated_residual_norm(x, gate, y, shift, scale, eps)       that, and modulated_layer_norm of it, in one pass
normed_residual(x, gate, y, weight, eps)     x + gate * rms_norm(y)
normed_residual_norm(x, gate, y, weight, next_weight, scale, eps)
                                             that, and modulated_rms_norm of it, in one pass
SwiGLU(width, hidden)(x), silu_gated(gate, value)        gated feed-forward of Llama's kind
clamp_float16(x)                             x within float16's range
linear_gelu(x, layer)                        gelu_tanh(layer(x))
rope_table(positions, widths, theta)         (l, axes) -> (l, d/2, 2) cosines and sines
split_axes(head_size, share)                 the widths for number, row and column
apply_rope(x, table), apply_rope_halves(x, table)        the turn of neighbouring, or of far, channels
joint_attention(streams, heads, rope=, mask=)            qk-norm, rope and attention over several streams

Images are (b, c, h, w) in channels_last memory: convolution weights are bound that way, and every module
keeps it. So `x.permute(0, 2, 3, 1).flatten(1, 2)` is the tokens of an image, (b, h*w, c), and copies nothing.
Attention inputs are views of a projection, (b, l, n*d) -> (b, l, n, d) -> (b, n, l, d), and the result's
memory is (b, l, n, d), so that splitting and merging heads copy nothing either.
"""
