"""Makes layers.safetensors: single layers, the optimizer and the weight average as PyTorch computes them.

usage: python make_layers.py DIR      (needs torch, diffusers, safetensors; writes DIR/layers.safetensors)

Tensors are named <case>.<what>. Inputs are drawn in f32; everything is computed in f64 from them and stored as f32.
`y` is the output, `dy` a random gradient of it, `dx`, `dweight`, ... the gradients of <y, dy>. Layouts are PyTorch's:
images NCHW, convolution weights OIHW, linear weights [out, in].

case                                   tensors
conv3x3                                x weight bias y dy dx dweight dbias      stride 1, padding 1
conv3x3_stride2                        "                                        stride 2, padding 1 on every side
conv3x3_stride2_asymmetric             "                                        stride 2, one row below and one column right, as diffusers
conv1x1                                "
group_norm_of3, group_norm_of4         "                                        12 channels in groups of 3 or 4, eps 1e-5
group_norm_silu_of3, .._of4            "                                        the same, then SiLU
group_norm_far_mean                    "                                        groups of 4, the mean 50 times the deviation
linear                                 "                                        x [N, in]
silu, upsample                         x y dy dx                                upsample: nearest, twice the size
concat                                 a b y dy da db                           over channels
embedding                              ids weight y dy dweight                  a row per id; ids repeat
attention, attention_sharp             q k v y dy dq dk dv                      [N, tokens, heads, d], scale 1/sqrt(d); sharp: nearly one-hot
mse                                    x target weight y dx                     y = mean over n and elements of weight[n] (x - target)^2
timestep.d<dim>.flip<0|1>.shift<0|1>   y [N, dim] for timestep.t [N]            flip_sin_to_cos, freq_shift
adamw                                  hyper w0 g [5, n] norm [5] w m v [5, n]  clip by global norm, then AdamW, five steps; w m v after each
ema                                    y0 w [5, n] decay [5] y [5, n]           y = decay y + (1 - decay) w

adamw.hyper (f64): lr, beta1, beta2, eps, weight decay, largest norm. adamw.norm is the norm before the clip; some of the
five gradients pass the largest norm and some don't.
"""
import math
import sys

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import get_timestep_embedding
from safetensors.torch import save_file

torch.manual_seed(0)
tensors = {}


def layer(case, forward, **inputs):
    """Stores the inputs, forward(inputs), a drawn dy, and the gradient of <y, dy> by each floating-point input."""
    wide = {name: x.double().requires_grad_() if x.is_floating_point() else x for name, x in inputs.items()}
    y = forward(**wide)
    dy = torch.randn(y.shape)
    y.backward(dy.double())
    gradients = {f"d{name}": x.grad for name, x in wide.items() if x.requires_grad}
    store(case, y=y.detach(), dy=dy, **inputs, **gradients)


def store(case, **named):
    for name, x in named.items():
        assert f"{case}.{name}" not in tensors
        tensors[f"{case}.{name}"] = x.float().contiguous() if x.is_floating_point() else x


def draw(*shape):
    return torch.randn(shape)


# Convolutions: odd channels, height and width differ.
def conv(case, kernel, height, width, forward):
    layer(case, forward, x=draw(2, 5, height, width), weight=draw(7, 5, kernel, kernel) / 4, bias=draw(7))


conv("conv3x3", 3, 7, 6, lambda x, weight, bias: F.conv2d(x, weight, bias, padding=1))
conv("conv3x3_stride2", 3, 8, 6, lambda x, weight, bias: F.conv2d(x, weight, bias, stride=2, padding=1))
conv("conv3x3_stride2_asymmetric", 3, 8, 6, lambda x, weight, bias: F.conv2d(F.pad(x, (0, 1, 0, 1)), weight, bias, stride=2))
conv("conv1x1", 1, 7, 6, lambda x, weight, bias: F.conv2d(x, weight, bias))

# Group norm.
for size in 3, 4:
    norm = lambda x, weight, bias: F.group_norm(x, 12 // size, weight, bias, eps=1e-5)
    layer(f"group_norm_of{size}", norm, x=2 * draw(2, 12, 5, 6) + 1, weight=draw(12), bias=draw(12))
    layer(f"group_norm_silu_of{size}", lambda **i: F.silu(norm(**i)), x=2 * draw(2, 12, 5, 6) + 1, weight=draw(12), bias=draw(12))
layer("group_norm_far_mean", norm, x=draw(2, 12, 5, 6) + 50, weight=draw(12), bias=draw(12))

# The rest of a U-Net.
layer("linear", lambda x, weight, bias: F.linear(x, weight, bias), x=draw(3, 11), weight=draw(6, 11) / 3, bias=draw(6))
layer("silu", lambda x: F.silu(x), x=torch.cat([4 * draw(40), torch.tensor([0.0, 100.0, -100.0])]))
layer("upsample", lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"), x=draw(2, 5, 3, 4))
layer("concat", lambda a, b: torch.cat([a, b], dim=1), a=draw(2, 5, 3, 4), b=draw(2, 3, 3, 4))
layer("embedding", lambda ids, weight: F.embedding(ids, weight), ids=torch.tensor([2, 0, 2, 4, 2]), weight=draw(5, 9))


def attention(q, k, v):
    scores = torch.einsum("nthd,nshd->nhts", q, k) / math.sqrt(q.shape[-1])
    return torch.einsum("nhts,nshd->nthd", scores.softmax(-1), v)


layer("attention", attention, q=draw(2, 35, 2, 5), k=draw(2, 35, 2, 5), v=draw(2, 35, 2, 5))
layer("attention_sharp", attention, q=6 * draw(1, 70, 1, 8), k=6 * draw(1, 70, 1, 8), v=draw(1, 70, 1, 8))

# The loss. Its gradient is for dy = 1.
x, target, weight = draw(3, 2, 4, 5), draw(3, 2, 4, 5), torch.tensor([1.0, 0.25, 3.0])
wide = x.double().requires_grad_()
y = (weight.double()[:, None, None, None] * (wide - target.double()) ** 2).mean()
y.backward()
store("mse", x=x, target=target, weight=weight, y=y.detach().reshape(1), dx=wide.grad)


# Timestep embedding: diffusers computes it in f32, where the angle of a large t is off by up to 1e-4; here it is exact.
def timestep_embedding(t, dim, flip, shift):
    half = dim // 2
    angles = t.double()[:, None] * torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float64) / (half - shift))
    parts = [angles.cos(), angles.sin()] if flip else [angles.sin(), angles.cos()]
    return torch.cat(parts + [torch.zeros(len(t), dim % 2, dtype=torch.float64)], dim=1)


t = torch.tensor([0, 1, 3, 0.25, 471, 512.5, 998, 999])
store("timestep", t=t)
for dim in 8, 15, 128:
    for flip in 0, 1:
        for shift in 0, 1:
            y = timestep_embedding(t, dim, flip, shift)
            theirs = get_timestep_embedding(t, dim, flip_sin_to_cos=bool(flip), downscale_freq_shift=shift)
            torch.testing.assert_close(y.float(), theirs, rtol=0, atol=2e-4)
            store(f"timestep.d{dim}.flip{flip}.shift{shift}", y=y)

# Five steps of AdamW. The gradients come in two tensors of one group, so that the norm is taken over both.
lr, betas, eps, decay, largest = 3e-3, (0.9, 0.99), 1e-8, 0.1, 4.0
w0, g = draw(37), draw(5, 37) * torch.tensor([1.0, 0.2, 3.0, 0.01, 1.0])[:, None]
parameters = [part.clone().requires_grad_() for part in w0.double().split([30, 7])]
optimizer = torch.optim.AdamW(parameters, lr=lr, betas=betas, eps=eps, weight_decay=decay)
after = {"norm": [], "w": [], "m": [], "v": []}
for gradient in g.double():
    for parameter, part in zip(parameters, gradient.split([30, 7])):
        parameter.grad = part.clone()
    after["norm"].append(torch.nn.utils.clip_grad_norm_(parameters, largest))
    optimizer.step()
    after["w"].append(torch.cat([p.detach() for p in parameters]))
    after["m"].append(torch.cat([optimizer.state[p]["exp_avg"] for p in parameters]))
    after["v"].append(torch.cat([optimizer.state[p]["exp_avg_sq"] for p in parameters]))
assert min(after["norm"]) < largest < max(after["norm"])
store("adamw", w0=w0, g=g, **{name: torch.stack(steps) for name, steps in after.items()})
tensors["adamw.hyper"] = torch.tensor([lr, *betas, eps, decay, largest], dtype=torch.float64)

# The moving average, with diffusers' warm-up of its decay: min(largest, (1 + step) / (10 + step)).
y0, w = draw(23), draw(5, 23)
rates = torch.tensor([min(0.35, (1 + step) / (10 + step)) for step in range(1, 6)])
average, steps = y0.double(), []
for rate, weights in zip(rates.double(), w.double()):
    average = rate * average + (1 - rate) * weights
    steps.append(average)
store("ema", y0=y0, w=w, decay=rates, y=torch.stack(steps))

save_file(tensors, f"{sys.argv[1]}/layers.safetensors")
