#!/usr/bin/env python3
"""Writes vectors.json beside this file: small cases with inputs and the outputs that others expect for them.

    python3 -m venv V
    V/bin/pip install numpy==2.4.6 torch==2.15.0 vector-quantize-pytorch==1.32.0     # Python 3.11; the CPU build of torch is enough
    V/bin/python tests/golden/make.py            # writes vectors.json
    V/bin/python tests/golden/make.py --check    # exits 1 when vectors.json differs from what would be written

case                 inputs                                                    expected
linear               x 8x12, w 5x12, b 5, dy 8x5                               y 8x5, dx 8x12, dw 5x12, db 5
normalize            x 8x5 (row 3 is zero), dy 8x5                             y 8x5, dx 8x5
nearest              x 12x3, codes 17x3 (small integers, many ties)            cosine, l2: index 12, top4 12x4, top4_score 12x4
vq                   z 9x6, codes 13x6, g 9x6, beta                            index 9, quantized 9x6, terms, dz 9x6, dcodes 13x6
vq_normalized        z 10x8, codes 15x8, g 10x8, beta                          index 10, quantized 10x8, terms, dz 10x8, dcodes 15x8
vq_weighted          z 9x6, codes 13x6, g 9x6, weight 9, beta                  as vq
rotation_trick       x 9x6, q 9x6, g 9x6                                       y 9x6, dx 9x6
ema_euclidean        codes 9x4, x 2x8x4, index 2x8, decay                      steps[2]: n 9, n_corrected 9, m 9x4, codes 9x4
ema_cosine           codes 9x4, x 2x8x4 (unit rows), index 2x8, decay          as ema_euclidean
vqp_cosine           x 11x8, codes 16x8 (unit rows), g 11x8                    index 11, quantized 11x8, train_loss, train_dx 11x8
vqp_euclidean        x 11x8, codes 16x8, g 11x8                                as vqp_cosine
projected_codebook   c 17x12 (frozen), p 4x12, b 4, z 9x4, g 9x4, gamma        e 17x4, index, quantized 9x4, terms, dp, db, dz, de 17x4

Inputs are exact in float32: multiples of 2^-10 (so that their decimals are short and every parser reads them exactly), or, for unit rows,
float32 values. Expected values are float64, from torch (ema_*: numpy; nearest: Python integers), except in vqp_*: there a peer ran in
its own float32.
Where an index decides the result, the margin between the best and the second-best code is checked to be far above float32 rounding.
`terms` are codebook, commit (both without factors), straight_through and total. All means divide by rows times dimension.
sg is stop-gradient.
"""
import json, pathlib, platform, sys
from importlib.metadata import version

import numpy as np
import torch
from vector_quantize_pytorch import VectorQuantize
from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)

# Inputs

def grid(rng, *shape, scale=1.0):
    """Normal values on multiples of 2^-10."""
    return np.round(rng.standard_normal(shape) * scale * 1024) / 1024

def f32(a):
    return np.asarray(a, dtype=np.float32).astype(np.float64)

def unit_rows(a):
    return f32(a / np.linalg.norm(a, axis=-1, keepdims=True))

def leaf(a):
    return torch.tensor(a, dtype=torch.float64, requires_grad=True)

def const(a):
    return torch.tensor(a, dtype=torch.float64)

def rows_near(rng, codes, owners, noise):
    return codes[owners] + grid(rng, len(owners), codes.shape[1], scale=noise)

def nearest(score, margin=1e-3):
    """The index of each row's best score, which must win clearly."""
    top = np.sort(score, axis=1)
    assert (top[:, -1] - top[:, -2] > margin).all(), "a row is too close to a tie"
    return score.argmax(axis=1)

def l2_score(z, codes):
    return -((z[:, None] - codes[None]) ** 2).sum(-1)

# Output

def prose(s):
    return " ".join(s.split())

def plain(v):
    if isinstance(v, torch.Tensor):
        v = v.detach().numpy()
    if isinstance(v, np.ndarray):
        v = v.astype(np.float64).tolist() if v.dtype == np.float32 else v.tolist()
    if isinstance(v, dict):
        return {k: plain(u) for k, u in v.items()}
    if isinstance(v, list):
        return [plain(u) for u in v]
    if isinstance(v, float):
        assert np.isfinite(v)
        return v + 0.0   # -0 becomes 0
    return v

def text(v, indent=0):
    """JSON with one line per row of a matrix; floats as repr writes them."""
    pad = " " * (indent + 1)
    if isinstance(v, dict):
        return "{\n" + ",\n".join(f"{pad}{json.dumps(k)}: {text(u, indent + 1)}" for k, u in v.items()) + "\n" + pad[1:] + "}"
    if isinstance(v, list) and v and isinstance(v[0], (dict, list)):
        return "[\n" + ",\n".join(pad + text(u, indent + 1) for u in v) + "\n" + pad[1:] + "]"
    return json.dumps(v, separators=(",", ":"))

# Cases

def linear():
    rng = np.random.default_rng(1)
    a = dict(x=grid(rng, 8, 12), w=grid(rng, 5, 12, scale=.5), b=grid(rng, 5), dy=grid(rng, 8, 5))
    x, w, b = leaf(a["x"]), leaf(a["w"]), leaf(a["b"])
    y = torch.nn.functional.linear(x, w, b)
    y.backward(const(a["dy"]))
    return dict(source="y = x w^T + b, torch.nn.functional.linear; gradients of sum(y * dy) by autograd",
                inputs=a, expected=dict(y=y, dx=x.grad, dw=w.grad, db=b.grad))

def normalize():
    rng = np.random.default_rng(2)
    a = dict(x=grid(rng, 8, 5), dy=grid(rng, 8, 5))
    a["x"][3] = 0
    live = np.arange(8) != 3
    x = leaf(a["x"][live])
    y = x / x.norm(dim=1, keepdim=True)
    y.backward(const(a["dy"][live]))
    full_y, full_dx = np.zeros((8, 5)), np.zeros((8, 5))
    full_y[live], full_dx[live] = y.detach().numpy(), x.grad.numpy()
    return dict(source=prose("""y = x / |x| for each row, gradients of sum(y * dy) by autograd; row 3 is zero, and y = 0 and dx = 0
                    there are this crate's own definition (autograd gives NaN)"""),
                inputs=a, expected=dict(y=full_y, dx=full_dx))

def nearest_exact():
    rng = np.random.default_rng(3)
    x, codes = rng.integers(-2, 3, (12, 3)), rng.integers(-2, 3, (17, 3))
    x[5] = 0                       # every inner product ties
    codes[11] = codes[4]           # a code that can never win
    expected = {}
    for kind in ("cosine", "l2"):
        index, top4, score4, ties, cut = [], [], [], 0, 0
        for row in x.tolist():
            dot = [sum(p * q for p, q in zip(row, c)) for c in codes.tolist()]
            norm = [sum(q * q for q in c) for c in codes.tolist()]
            # l2 twice the score dot - |c|^2/2, so that everything is an integer: the largest has the smallest distance
            score = dot if kind == "cosine" else [2 * s - n for s, n in zip(dot, norm)]
            order = sorted(range(len(score)), key=lambda k: (-score[k], k))
            index.append(order[0])
            top4.append(order[:4])
            score4.append([score[k] * (1 if kind == "cosine" else .5) for k in order[:4]])
            ties += score[order[0]] == score[order[1]]
            cut += score[order[3]] == score[order[4]]
            if kind == "l2":       # the definition itself
                dist = [sum((p - q) ** 2 for p, q in zip(row, c)) for c in codes.tolist()]
                assert order == sorted(range(len(dist)), key=lambda k: (dist[k], k))
        assert ties >= 3 and cut >= 3, (kind, ties, cut)
        expected[kind] = dict(index=index, top4=top4, top4_score=score4)
    return dict(source=prose("""Python integers; ties go to the lowest index, top4 is ordered by (score descending, index ascending); the
                    cosine score is the inner product of the rows as given, the l2 score is x.c - |c|^2/2"""),
                inputs=dict(x=x.astype(float), codes=codes.astype(float)), expected=expected)

def vq(weighted):
    rng = np.random.default_rng(4)
    owners = np.array([2, 7, 7, 0, 11, 2, 7, 4, 9])
    codes = grid(rng, 13, 6)
    a = dict(z=rows_near(rng, codes, owners, .3), codes=codes, g=grid(rng, 9, 6))
    if weighted:
        a["weight"] = np.array([1, .5, 0, 1, .5, 0, 1, 1, .5])
    a["beta"] = .25
    z, e, g, beta = leaf(a["z"]), leaf(a["codes"]), const(a["g"]), a["beta"]
    idx = nearest(l2_score(a["z"], a["codes"]))
    w = const(a["weight"])[:, None] if weighted else torch.ones(9, 1, dtype=torch.float64)
    q = e[torch.tensor(idx)]
    mean = lambda t: (w * t ** 2).sum() / (w.sum() * t.shape[1])
    codebook, commit = mean(z.detach() - q), mean(z - q.detach())
    through = (g * (z + (q - z).detach())).sum()
    total = through + beta * commit + codebook
    total.backward()
    hits = np.bincount(idx, minlength=13)
    assert hits.max() > 1 and hits.min() == 0
    assert (e.grad[torch.tensor(hits == 0)] == 0).all()
    how = "with means for the squared norms"
    if weighted:
        how = "with sum(w |.|^2) / (sum(w) d) for the squared norms; the straight-through term is not weighted"
    return dict(source=prose(f"""VQ-VAE (van den Oord et al. 2017, arXiv 1711.00937, eq. 3), {how}: total = sum(g * (z + sg(q - z))) +
                    beta * mean((z - sg(e))^2) + mean((sg(z) - e)^2), nearest code by l2; gradients of total by autograd"""),
                inputs=a, expected=dict(index=idx, quantized=q, codebook=codebook.item(), commit=commit.item(),
                                        straight_through=through.item(), total=total.item(), dz=z.grad, dcodes=e.grad))

def vq_normalized():
    rng = np.random.default_rng(5)
    owners = np.array([3, 3, 14, 6, 0, 6, 3, 9, 12, 1])
    codes = grid(rng, 15, 8, scale=1.5)
    a = dict(z=rows_near(rng, codes, owners, .5), codes=codes, g=grid(rng, 10, 8), beta=.25)
    z, e, g, beta = leaf(a["z"]), leaf(a["codes"]), const(a["g"]), a["beta"]
    zn, en = z / z.norm(dim=1, keepdim=True), e / e.norm(dim=1, keepdim=True)
    idx = nearest((zn @ en.T).detach().numpy())
    q = en[torch.tensor(idx)]
    codebook, commit = ((zn.detach() - q) ** 2).mean(), ((z - q.detach()) ** 2).mean()
    through = (g * (zn + (q - zn).detach())).sum()
    total = through + beta * commit + codebook
    total.backward()
    hits = np.bincount(idx, minlength=15)
    assert hits.max() > 1 and hits.min() == 0
    return dict(source=prose("""vq with zn = z/|z|, en = e/|e| (normalised codes: ViT-VQGAN, Yu et al. 2021, arXiv 2110.04627), nearest
                    code by inner product: total = sum(g * (zn + sg(q - zn))) + beta * mean((z - sg(en))^2) + mean((sg(zn) - en)^2);
                    the commitment term is on rows before normalisation, this crate's own choice; gradients of total to z and to the
                    unnormalised codes by autograd"""),
                inputs=a, expected=dict(index=idx, quantized=q, codebook=codebook.item(), commit=commit.item(),
                                        straight_through=through.item(), total=total.item(), dz=z.grad, dcodes=e.grad))

def rotation_trick():
    rng = np.random.default_rng(6)
    a = dict(x=grid(rng, 9, 6), g=grid(rng, 9, 6))
    a["q"] = a["x"] + grid(rng, 9, 6, scale=.7)
    a = dict(x=a["x"], q=a["q"], g=a["g"])
    cos = (a["x"] * a["q"]).sum(1) / np.linalg.norm(a["x"], axis=1) / np.linalg.norm(a["q"], axis=1)
    assert (cos > -.5).all() and (cos < .99).all()
    x, q = leaf(a["x"]), const(a["q"])
    y = rotate_to(x, q)
    assert torch.allclose(y, q, rtol=0, atol=1e-12)
    (y * const(a["g"])).sum().backward()
    return dict(source=prose("""rotate_to of vector-quantize-pytorch in float64 (Fifty et al. 2024, arXiv 2410.06424, section 4.2):
                    y = (|q|/|x|) R x, with the rotation R and the scale held constant; dx is the gradient of sum(g * y) by autograd.
                    Its clamps (norms at least 1e-6) do not act here"""),
                inputs=a, expected=dict(y=y, dx=x.grad))

def ema(cosine):
    rng = np.random.default_rng(7)
    unit = unit_rows if cosine else (lambda v: v)
    k, b = 9, .99
    # Codes 0 and 4 are hit in both steps, 2 and 7 only in the first, 5 only in the second, the rest never.
    index = np.array([[0, 4, 4, 2, 7, 0, 4, 7], [5, 0, 4, 0, 5, 0, 4, 5]])
    a = dict(codes=unit(grid(rng, k, 4)), x=unit(grid(rng, 2, 8, 4)), index=index, decay=b)
    codes, n, m, steps = a["codes"].copy(), np.zeros(k), np.zeros((k, 4)), []
    for t in range(2):
        count, total = np.zeros(k), np.zeros((k, 4))
        for i, j in enumerate(index[t]):
            count[j] += 1
            total[j] += a["x"][t, i]
        n, m = b * n + (1 - b) * count, b * m + (1 - b) * total
        hit = count > 0
        value = m[hit] / (np.linalg.norm(m[hit], axis=1, keepdims=True) if cosine else n[hit, None])
        codes = codes.copy()
        codes[hit] = value
        # m and n decay alike, so a code missed in this step is where it was.
        old = (n > 0) & ~hit
        scale = np.linalg.norm(m[old], axis=1, keepdims=True) if cosine else n[old, None]
        assert np.allclose(codes[old], m[old] / scale, rtol=0, atol=1e-12)
        steps.append(dict(n=n, n_corrected=n / (1 - b ** (t + 1)), m=m, codes=codes))
    form = "code = m / |m|" if cosine else "code = m / n"
    return dict(source=prose(f"""exponential moving averages (VQ-VAE, arXiv 1711.00937, appendix A.1), n and m from zero:
                    n = b n + (1-b) count, m = b m + (1-b) sum, {form} (a bias correction, as in Adam, divides both by 1 - b^t and
                    cancels; n_corrected shows it); codes missed in a step keep their value, in this crate's definition also when
                    never hit"""),
                inputs=a, expected=dict(steps=steps))

def vqp(cosine):
    rng = np.random.default_rng(8)
    owners = np.array([5, 1, 1, 15, 8, 3, 0, 8, 10, 12, 5])
    codes = grid(rng, 16, 8)
    codes = unit_rows(codes) if cosine else codes
    x = np.round(rows_near(rng, codes, owners, .2) * (1.5 if cosine else 1) * 1024) / 1024
    a = dict(x=x, codes=codes, g=grid(rng, 11, 8))
    score = x / np.linalg.norm(x, axis=1, keepdims=True) @ codes.T if cosine else l2_score(x, codes)
    want = nearest(score)
    settings = dict(dim=8, codebook_size=16, use_cosine_sim=cosine, decay=.99, threshold_ema_dead_code=0,
                    rotation_trick=False, commitment_weight=1.)
    layer = VectorQuantize(**settings)
    layer.codebook = torch.tensor(codes, dtype=torch.float32)
    t = torch.tensor(x, dtype=torch.float32)[None]
    layer.eval()
    with torch.no_grad():
        quantized, index, loss = layer(t)
    assert loss.item() == 0 and (index[0].numpy() == want).all()
    assert (quantized[0].numpy().astype(np.float64) == codes[want]).all()
    layer.train()
    t.requires_grad_(True)
    out, index, loss = layer(t, freeze_codebook=True)
    assert (index[0].numpy() == want).all()
    ((out[0] * torch.tensor(a["g"], dtype=torch.float32)).sum() + loss.sum()).backward()
    seen = "x / max(|x|, 1e-6)" if cosine else "x"
    return dict(source=f"VectorQuantize({', '.join(f'{k}={v}' for k, v in settings.items())}) of vector-quantize-pytorch, in float32",
                conventions=[
                    "eval: quantized is the code itself and the loss is 0; x goes in as one batch, [1, rows, dim]",
                    f"train: the loss is commitment_weight * mean((u - sg(q))^2) with u = {seen}; there is no codebook term",
                    "train: the output is u + sg(q - u), in float32 not exactly q; train_dx is the gradient of sum(g * output) + loss",
                    "train was run with freeze_codebook=True; the EMA update comes after the lookup and changes none of these outputs",
                ] + ([
                    "the loss is on normalised rows, unlike vq_normalized; but where a mask is passed, on rows as given",
                    "codes are not normalised when they are set, only x is",
                ] if cosine else [
                    "the score is -sqrt(max(|x|^2 + |c|^2 - 2 x.c, 1e-8))",
                ]),
                inputs=a, expected=dict(index=index[0], quantized=quantized[0], train_loss=loss.item(), train_dx=t.grad[0]))

def projected_codebook():
    rng = np.random.default_rng(9)
    owners = np.array([16, 4, 4, 0, 9, 12, 4, 7, 0])
    a = dict(c=grid(rng, 17, 12), p=grid(rng, 4, 12, scale=.5), b=grid(rng, 4, scale=.5))
    near = a["c"] @ a["p"].T + a["b"]
    a["z"] = np.round((near[owners] + rng.standard_normal((9, 4)) * .2) * 1024) / 1024
    a["g"], a["gamma"] = grid(rng, 9, 4), .33
    c, p, b, z, g = const(a["c"]), leaf(a["p"]), leaf(a["b"]), leaf(a["z"]), const(a["g"])
    e = c @ p.T + b
    e.retain_grad()
    idx = nearest(l2_score(a["z"], e.detach().numpy()))
    hits = np.bincount(idx, minlength=17)
    assert hits.max() > 1 and hits.min() == 0
    q = e[torch.tensor(idx)]
    commit, codebook = ((q.detach() - z) ** 2).mean(), ((q - z.detach()) ** 2).mean()
    through = (g * (z + (q - z).detach())).sum()
    total = through + commit + a["gamma"] * codebook
    total.backward()
    return dict(source=prose("""VQGAN-LC (Zhu et al. 2024, arXiv 2406.11837; its models_vq.py): e = c p^T + b with c frozen, nearest code
                    by l2, loss_q = mean((sg(zq) - z)^2) + gamma mean((zq - sg(z))^2) with gamma = 0.33, output z + sg(zq - z);
                    total = sum(g * output) + loss_q, gradients by autograd; de is the gradient to the projected codes"""),
                inputs=a, expected=dict(e=e, index=idx, quantized=q, commit=commit.item(), codebook=codebook.item(),
                                        straight_through=through.item(), total=total.item(), dp=p.grad, db=b.grad, dz=z.grad, de=e.grad))

CASES = dict(linear=linear, normalize=normalize, nearest=nearest_exact,
             vq=lambda: vq(False), vq_normalized=vq_normalized, vq_weighted=lambda: vq(True), rotation_trick=rotation_trick,
             ema_euclidean=lambda: ema(False), ema_cosine=lambda: ema(True),
             vqp_cosine=lambda: vqp(True), vqp_euclidean=lambda: vqp(False), projected_codebook=projected_codebook)

def main():
    out = dict(generator="tests/golden/make.py",
               versions=dict(python=platform.python_version(), numpy=np.__version__, torch=torch.__version__.split("+")[0],
                             vector_quantize_pytorch=version("vector-quantize-pytorch")),
               cases=[plain(dict(name=name, **make())) for name, make in CASES.items()])
    for case in out["cases"]:
        for name, v in case["inputs"].items():
            if name not in ("beta", "decay", "gamma"):
                v = np.asarray(v, dtype=np.float64)
                assert (v.astype(np.float32) == v).all(), (case["name"], name)
    body = text(out) + "\n"
    json.loads(body)
    path = pathlib.Path(__file__).with_name("vectors.json")
    if "--check" in sys.argv:
        sys.exit(0 if path.exists() and path.read_text() == body else 1)
    path.write_text(body)

if __name__ == "__main__":
    main()
