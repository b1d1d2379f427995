"""Writes golden.json: what PyTorch, in float64, computes from the formulas of the papers for the weights and images of
synthetic.rs. Nothing here comes from trained weights or from anyone's images.

    python examples/trainers/tests/parity/make.py      (needs torch; run again only when a formula or a size changes)
"""

import json
import pathlib

import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
U32 = 0xFFFFFFFF


# The rule of synthetic.rs -----------------------------------------------------------------------------------------------


def uniform(name, count):
    seed = 0x811C9DC5
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x01000193) & U32

    def times(x, factor):
        # Products of 32-bit numbers in two parts, as int64 holds no more than 63 bits.
        return (((x >> 16) * factor & U32) << 16) + (x & 0xFFFF) * factor & U32

    x = times(torch.arange(count, dtype=torch.int64), 0x9E3779B1) + seed & U32
    x = times(x ^ (x >> 15), 0x85EBCA6B)
    x = times(x ^ (x >> 13), 0xC2B2AE35)
    x ^= x >> 16
    return ((x >> 21) - 1024).double() / 1024


def values(name, *shape):
    count = torch.Size(shape).numel()
    v = uniform(name, count)
    if ".lin" in name:
        v = v.abs()
    elif len(shape) == 1:
        v = v / 8
        if name.endswith(("weight", "gamma")):
            v = 1 + v
    else:
        fan_in, halvings = count // shape[0], 0
        while 6 * 4**halvings < fan_in:
            halvings += 1
        v = v / 2**halvings
    return v.reshape(shape)


def images(name, batch, size):
    return uniform(name, batch * 3 * size * size).reshape(batch, 3, size, size)


def rounded(tensor):
    return [float(f"{value:.9g}") for value in tensor.detach().reshape(-1).tolist()]


def samples(tensor, count=8):
    """Some values of a tensor, and its length as one vector."""
    flat = tensor.detach().reshape(-1)
    return {"norm": rounded(flat.norm())[0], "samples": rounded(flat[:: -(-len(flat) // count)])}


def conv(x, name, out, kernel, stride=1, padding=0):
    return F.conv2d(x, values(f"{name}.weight", out, x.shape[1], kernel, kernel), values(f"{name}.bias", out), stride, padding)


# Perceptual distances (Zhang et al. 2018) -------------------------------------------------------------------------------


def lpips_input(x):
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    return (x - shift[:, None, None]) / scale[:, None, None]


def caffe_input(x):
    """[-1, 1] and R, G, B to 0..255 less the mean and B, G, R."""
    return ((x + 1) * 127.5).flip(1) - torch.tensor([103.939, 116.779, 123.68])[:, None, None]


def vgg(x):
    taps, x = [], lpips_input(x)
    for stage, (numbers, width) in enumerate(
        [((0, 2), 64), ((5, 7), 128), ((10, 12, 14), 256), ((17, 19, 21), 512), ((24, 26, 28), 512)]
    ):
        x = F.max_pool2d(x, 2) if stage else x
        for number in numbers:
            x = F.relu(conv(x, f"features.{number}", width, 3, 1, 1))
        taps.append(x)
    return taps


def alex(x):
    x = F.relu(conv(lpips_input(x), "features.0", 64, 11, 4, 2))
    taps = [x]
    x = F.relu(conv(F.max_pool2d(x, 3, 2), "features.3", 192, 5, 1, 2))
    taps.append(x)
    x = F.max_pool2d(x, 3, 2)
    for number, width in ((6, 384), (8, 256), (10, 256)):
        x = F.relu(conv(x, f"features.{number}", width, 3, 1, 1))
        taps.append(x)
    return taps


def squeeze(x, caffe):
    x = F.relu(conv(caffe_input(x) if caffe else lpips_input(x), "conv1" if caffe else "features.0", 64, 3, 2))
    taps = [x]
    widths = (16, 16, 32, 32, 48, 48, 64, 64)
    for fire, (number, width) in enumerate(zip((3, 4, 6, 7, 9, 10, 11, 12), widths), start=2):
        name, part = (f"fire{fire}/", "squeeze1x1") if caffe else (f"features.{number}.", "squeeze")
        if fire in (2, 4, 6):
            x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        s = F.relu(conv(x, name + part, width, 1))
        x = torch.cat(
            [F.relu(conv(s, name + "expand1x1", 4 * width, 1)), F.relu(conv(s, name + "expand3x3", 4 * width, 3, 1, 1))], 1
        )
        if fire not in (2, 4):
            taps.append(x)
    return taps


def perceptual(net, prefix, size):
    a, b = images("images.a", 2, size).requires_grad_(), images("images.b", 2, size)
    distance = 0
    for layer, (f, g) in enumerate(zip(net(a), net(b))):
        f, g = (t / (t.square().sum(1, keepdim=True).sqrt() + 1e-10) for t in (f, g))
        squares = (f - g) ** 2
        if prefix:
            squares = squares * values(f"{prefix}.lin{layer}.weight", 1, f.shape[1], 1, 1)
        distance = distance + squares.sum(1).mean((1, 2))
    if not prefix:
        distance = distance / (layer + 1)
    (gradient,) = torch.autograd.grad(distance.sum(), a)
    return {"size": size, "distance": rounded(distance), "gradient": samples(gradient)}


# CLIP's vision tower (Radford et al. 2021) ------------------------------------------------------------------------------


def clip(huggingface):
    dim, heads, grid, patch, out = 128, 2, 3, 8, 48
    top = "vision_model." if huggingface else "visual."

    def pick(theirs, openai):
        return top + (theirs if huggingface else openai)

    def norm(x, theirs, openai):
        name = pick(theirs, openai)
        return F.layer_norm(x, (dim,), values(f"{name}.weight", dim), values(f"{name}.bias", dim), 1e-5)

    def linear(x, name, outputs, dot="."):
        return F.linear(x, values(f"{name}{dot}weight", outputs, x.shape[-1]), values(f"{name}{dot}bias", outputs))

    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    x = ((images("images.a", 2, grid * patch) + 1) / 2 - mean) / deviation
    kernel = values(pick("embeddings.patch_embedding.weight", "conv1.weight"), dim, 3, patch, patch)
    x = F.conv2d(x, kernel, stride=patch).flatten(2).transpose(1, 2)
    name = pick("embeddings.class_embedding", "class_embedding")
    x = torch.cat([values(name, dim).expand(2, 1, dim), x], 1)
    x = x + values(pick("embeddings.position_embedding.weight", "positional_embedding"), grid * grid + 1, dim)
    x = norm(x, "pre_layrnorm", "ln_pre")
    for layer in range(2):
        theirs, openai = f"encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        y = norm(x, theirs + "layer_norm1", openai + "ln_1")
        if huggingface:
            q, k, v = (linear(y, f"{top}{theirs}self_attn.{part}_proj", dim) for part in "qkv")
        else:
            q, k, v = linear(y, f"{top}{openai}attn.in_proj", 3 * dim, "_").chunk(3, -1)
        q, k, v = (t.reshape(2, -1, heads, dim // heads).transpose(1, 2) for t in (q, k, v))
        y = (q @ k.transpose(2, 3) / (dim // heads) ** 0.5).softmax(-1) @ v
        y = y.transpose(1, 2).reshape(2, -1, dim)
        x = x + linear(y, pick(theirs + "self_attn.out_proj", openai + "attn.out_proj"), dim)
        y = norm(x, theirs + "layer_norm2", openai + "ln_2")
        y = linear(y, pick(theirs + "mlp.fc1", openai + "mlp.c_fc"), 256)
        x = x + linear(y * torch.sigmoid(1.702 * y), pick(theirs + "mlp.fc2", openai + "mlp.c_proj"), dim)
    x = norm(x, "post_layernorm", "ln_post")[:, 1:]
    x = F.linear(x, values("visual_projection.weight", out, dim)) if huggingface else x @ values("visual.proj", dim, out)
    return samples(x.transpose(1, 2).reshape(2, out, grid, grid), 12)


# Discriminators ---------------------------------------------------------------------------------------------------------


class Parameters(dict):
    """Made when first asked for, by name; what was made is there for gradients."""

    def get_or_make(self, name, *shape):
        if name not in self:
            # Kernels of the equalised learning rate are not scaled beforehand.
            unscaled = self.equalised and len(shape) == 4
            v = 2 * uniform(name, torch.Size(shape).numel()).reshape(shape) if unscaled else values(name, *shape)
            self[name] = v.requires_grad_()
        return self[name]

    def __init__(self, equalised):
        self.equalised = equalised


def patch_gan(p, x, layers=3, channels=8):
    """Isola et al. 2017, appendix 6.1.2: 4 × 4 convolutions, batch normalization between, leaky ReLU 0.2."""
    width = [channels * min(2**layer, 8) for layer in range(layers + 1)] + [1]
    for layer, out in enumerate(width):
        ends = layer in (0, layers + 1)
        weight = p.get_or_make(f"convs.{layer}.weight", out, x.shape[1], 4, 4)
        bias = p.get_or_make(f"convs.{layer}.bias", out) if ends else None
        x = F.conv2d(x, weight, bias, 2 if layer < layers else 1, 1)
        if not ends:
            scale, shift = (p.get_or_make(f"norms.{layer - 1}.{name}", out) for name in ("gamma", "beta"))
            x = F.batch_norm(x, None, None, scale, shift, training=True, eps=1e-5)
        if layer <= layers:
            x = F.leaky_relu(x, 0.2)
    return x


def style_gan(p, x, widths=(16, 16, 16)):
    """Karras et al. 2020, residual discriminator; weights times 1/sqrt(fan-in), leaky ReLU times sqrt 2."""

    def layer(x, name, out, kernel, stride=1, padding=0, bias=True):
        weight = p.get_or_make(f"{name}.weight", out, x.shape[1], kernel, kernel)
        weight = weight * weight[0].numel() ** -0.5
        return F.conv2d(x, weight, p.get_or_make(f"{name}.bias", out) if bias else None, stride, padding)

    def activate(x):
        return F.leaky_relu(x, 0.2) * 2**0.5

    def blur(x, padding):
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        kernel = torch.outer(taps, taps).expand(x.shape[1], 1, 4, 4)
        return F.conv2d(x, kernel, padding=padding, groups=x.shape[1])

    x = activate(layer(x * 0.5 + 0.5, "input", widths[0], 1))
    for block, out in enumerate(widths[1:]):
        name = f"blocks.{block}"
        inner = activate(layer(x, f"{name}.conv1", x.shape[1], 3, padding=1))
        inner = activate(layer(blur(inner, 2), f"{name}.conv2", out, 3, stride=2))
        skip = layer(blur(x, 1), f"{name}.skip", out, 1, stride=2, bias=False)
        x = (inner + skip) / 2**0.5
    batch, channels, height, width = x.shape
    group = min(batch, 4)
    y = x.reshape(group, batch // group, -1)
    deviation = ((y - y.mean(0)).square().mean(0) + 1e-8).sqrt().mean(1)
    x = torch.cat([x, deviation.repeat(group).reshape(batch, 1, 1, 1).expand(-1, -1, height, width)], 1)
    x = activate(layer(x, "final_conv", channels, 3, padding=1))
    x = activate(layer(x, "final_linear1", channels, 4))
    return layer(x, "final_linear2", 1, 1).reshape(batch, 1)


def discriminator(net, equalised, batch, size):
    p = Parameters(equalised)
    real, fake = images("images.real", batch, size), images("images.fake", batch, size)
    of_real = net(p, real)
    fake.requires_grad_()
    of_fake = net(p, fake)
    hinge = 0.5 * (F.relu(1 - of_real).mean() + F.relu(1 + of_fake).mean())
    softplus = 0.5 * (F.softplus(-of_real).mean() + F.softplus(of_fake).mean())
    names = sorted(p)

    def gradients(loss):
        return {name: samples(g, 4) for name, g in zip(names, torch.autograd.grad(loss, [p[n] for n in names], retain_graph=True))}

    def at_images(loss):
        return samples(torch.autograd.grad(loss, fake, retain_graph=True)[0])

    found = {
        "batch": batch,
        "size": size,
        "real": rounded(of_real),
        "fake": rounded(of_fake),
        "hinge_d": {"value": rounded(hinge)[0], "gradients": gradients(hinge)},
        "softplus_d": {"value": rounded(softplus)[0], "gradients": gradients(softplus)},
        "hinge_g": {"value": rounded(-of_fake.mean())[0], "gradient": at_images(-of_fake.mean())},
        "softplus_g": {"value": rounded(F.softplus(-of_fake).mean())[0], "gradient": at_images(F.softplus(-of_fake).mean())},
    }
    # Mescheder et al. 2018, with gamma 10 every 16 steps, by a second derivative.
    real.requires_grad_()
    (g,) = torch.autograd.grad(net(p, real).sum(), real, create_graph=True)
    r1 = 16 * 10 / 2 * g.square().sum((1, 2, 3)).mean()
    made = torch.autograd.grad(r1, [p[n] for n in names], allow_unused=True)
    made = {name: g for name, g in zip(names, made) if g is not None}
    length = torch.cat([g.reshape(-1) for g in made.values()]).norm()
    found["r1"] = {"value": rounded(r1)[0], "norm": rounded(length)[0], "gradients": {n: samples(g, 4) for n, g in made.items()}}
    return found


def unet(channels=3, condition=5, patch=2, base=16, multipliers=(1, 2), res_blocks=2, attention=(2,), size=16, steps=(3, 977)):
    """Dhariwal and Nichol 2021's UNet on patches, with codes beside them; norms in groups of four channels or more."""
    p = Parameters(False)

    def layer(x, name, out, kernel, stride=1):
        weight = p.get_or_make(f"{name}.weight", out, x.shape[1], kernel, kernel)
        return F.conv2d(x, weight, p.get_or_make(f"{name}.bias", out), stride, kernel // 2)

    def linear(x, name, out):
        return x @ p.get_or_make(f"{name}.weight", x.shape[1], out) + p.get_or_make(f"{name}.bias", out)

    def norm(x, name):
        count = x.shape[1]
        groups = max([1] + [g for g in range(2, min(32, count // 4) + 1) if count % g == 0])
        return F.group_norm(x, groups, *(p.get_or_make(f"{name}.{part}", count) for part in ("gamma", "beta")), eps=1e-5)

    def res_block(x, name, out, time):
        h = layer(F.silu(norm(x, f"{name}.norm1")), f"{name}.conv1", out, 3)
        h = h + linear(F.silu(time), f"{name}.temb_proj", out)[:, :, None, None]
        h = layer(F.silu(norm(h, f"{name}.norm2")), f"{name}.conv2", out, 3)
        return (x if x.shape[1] == out else layer(x, f"{name}.nin_shortcut", out, 1)) + h

    def attend(x, name):
        h = norm(x, f"{name}.norm")
        q, k, v = (layer(h, f"{name}.{part}", x.shape[1], 1).flatten(2).transpose(1, 2) for part in "qkv")
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        return x + layer(h, f"{name}.proj_out", x.shape[1], 1)

    def stage(x, name, out, time, attends):
        x = res_block(x, f"{name}.block", out, time)
        return attend(x, f"{name}.attn") if attends else x

    xt = images("images.xt", len(steps), size).requires_grad_()
    codes = uniform("codes", len(steps) * condition * 16).reshape(len(steps), condition, 4, 4).requires_grad_()
    grid = size // patch
    x = F.pixel_unshuffle(xt, patch)
    x = torch.cat([x, codes.repeat_interleave(grid // 4, 2).repeat_interleave(grid // 4, 3)], 1)
    angles = torch.tensor(steps).double()[:, None] * 10000 ** (-torch.arange(base // 2).double() / (base // 2))
    time = torch.cat([angles.cos(), angles.sin()], 1)
    time = linear(F.silu(linear(time, "time_in", 4 * base)), "time_out", 4 * base)
    x = layer(x, "conv_in", base * multipliers[0], 3)
    skips = [x]
    for level, multiplier in enumerate(multipliers):
        for i in range(res_blocks):
            x = stage(x, f"down.{level}.stages.{i}", base * multiplier, time, 2**level in attention)
            skips.append(x)
        if level + 1 < len(multipliers):
            x = layer(x, f"down.{level}.down", x.shape[1], 3, 2)
            skips.append(x)
    x = res_block(x, "mid.block_1", x.shape[1], time)
    x = res_block(attend(x, "mid.attn_1"), "mid.block_2", x.shape[1], time)
    for place, (level, multiplier) in enumerate(reversed(list(enumerate(multipliers)))):
        for i in range(res_blocks + 1):
            x = torch.cat([x, skips.pop()], 1)
            x = stage(x, f"up.{place}.stages.{i}", base * multiplier, time, 2**level in attention)
        if level:
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
            x = layer(x, f"up.{place}.up.conv", x.shape[1], 3)
    x = F.pixel_shuffle(layer(F.silu(norm(x, "norm_out")), "conv_out", 2 * channels * patch**2, 3), patch)
    x.square().mean().backward()
    # Every seventh: a wrong one makes all in front of it wrong.
    gradients = {name: samples(p[name].grad, 4) for name in sorted(p)[::7]}
    at = {"xt": samples(xt.grad), "codes": samples(codes.grad)}
    return {"output": samples(x), "gradients": gradients, "at": at, "parameters": sum(v.numel() for v in p.values())}


golden = {
    "perceptual": {
        "vgg": perceptual(vgg, "vgg", 34),
        "alex": perceptual(alex, "alex", 51),
        "squeeze": perceptual(lambda x: squeeze(x, False), "squeeze", 45),
        "squeeze_caffe": perceptual(lambda x: squeeze(x, True), "squeeze", 46),
        "squeeze_uniform": perceptual(lambda x: squeeze(x, False), None, 33),
    },
    "clip": {"huggingface": clip(True), "openai": clip(False)},
    "patch_gan": discriminator(patch_gan, False, 2, 32),
    "style_gan": discriminator(style_gan, True, 8, 16),
    "unet": unet(),
}
path = pathlib.Path(__file__).with_name("golden.json")
path.write_text(json.dumps(golden, indent=1) + "\n")
print(f"{path}: {path.stat().st_size} bytes")
