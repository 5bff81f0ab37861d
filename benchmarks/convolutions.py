"""Times of formulations of the model's costly operations by XLA.

    python -m benchmarks.convolutions [--operations block upsample nearest] [--torch PYTHON]
    python -m benchmarks.convolutions --machine gpu [--operations upsample rgb depthwise]

prints one markdown table per operation: PyTorch's median time (eager, channels_last, two threads)
and the median over rounds of every formulation's time as a multiple of PyTorch's.  PyTorch and
every formulation run in a process each and take turns, because on a shared machine only ratios of
neighbouring measurements are meaningful.
``--torch`` names an interpreter with PyTorch, if the running one has none.
``--machine gpu`` takes other cases, of the large model at 32 images, in bfloat16, and compares with
the first formulation, without PyTorch.

Shapes: B batch, H W grid, I O C channels, D width, N tokens, heads h of width d.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np

from benchmarks import rgb_convolutions

NHWC = ("NHWC", "HWIO", "NHWC")
ROOT_HALF = np.float32(0.5**0.5)


# Depthwise 3x3, padding (1, 1): x [B, H, W, C], w [3, 3, 1, C] -> [B, H/stride, W/stride, C].


def grouped(x, w, stride):
    """Computes XLA's own grouped convolution."""
    from jax import lax

    return lax.conv_general_dilated(
        x, w, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=NHWC,
        feature_group_count=x.shape[-1],
    )  # fmt: skip


def shifts(x, w, stride):
    """Sums products of nine slices of a padded array."""
    import jax.numpy as jnp

    _, height, width, _ = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(
        x[:, i : i + height : stride, j : j + width : stride] * w[i, j, 0]
        for i in range(3)
        for j in range(3)
    )


def flat_shifts(x, w, stride):
    """Sums products of nine slices, with W and C as one axis between the padding and the slices.

    XLA then cannot replace the slices without padding by the unpadded array, and so writes and
    reads only the padded array.
    """
    import jax.numpy as jnp

    if stride != 1:
        return shifts(x, w, stride)
    batch, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = x.reshape(batch, height + 2, (width + 2) * channels)
    return sum(
        x[:, i : i + height, j * channels : (j + width) * channels].reshape(
            batch, height, width, channels
        )
        * w[i, j, 0]
        for i in range(3)
        for j in range(3)
    )


def windows(x, w, stride):
    """Pads every product, or crops it where the padding is negative, without a padded array."""
    from jax import lax

    def shift(y, i, j):
        y = lax.pad(y, y.dtype.type(0), ((0, 0, 0), (1 - i, i - 1, 0), (1 - j, j - 1, 0), (0,) * 3))
        return y[:, ::stride, ::stride]

    return sum(shift(x * w[i, j, 0], i, j) for i in range(3) for j in range(3))


def chosen(x, w, stride):
    """Computes flat shifts; with stride 2, windows for the value and shifts for the gradient."""
    import jax

    if stride == 1:
        return flat_shifts(x, w, 1)
    plain = functools.partial(shifts, stride=stride)
    value = jax.custom_vjp(functools.partial(windows, stride=stride))
    value.defvjp(functools.partial(jax.vjp, plain), lambda pullback, g: pullback(g))
    return value(x, w)


DEPTHWISE = {
    "grouped": grouped,
    "shifts": shifts,
    "flat shifts": flat_shifts,
    "windows": windows,
    "chosen": chosen,
}


# Nearest x2, then 3x3 with padding (1, 1): x [B, H, W, I], w [3, 3, I, O] -> [B, 2H, 2W, O].


def plain_upsample(x, w):
    """Up-samples, then convolves: the plain form."""
    import jax.numpy as jnp
    from jax import lax

    x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    return lax.conv_general_dilated(x, w, (1, 1), ((1, 1), (1, 1)), dimension_numbers=NHWC)


def phase_kernel(w, phase, axis):
    """Sums three taps on the doubled grid to two on the small one; ``axis`` goes from 3 to 2."""
    import jax.numpy as jnp

    a, b, c = jnp.split(w, 3, axis)
    return jnp.concatenate((a + b, c) if phase else (a, b + c), axis)


def interleave(phases, x, outputs):
    """Interleaves phases, row by row of the 2x2, each [B, H, W, O] -> [B, 2H, 2W, O]."""
    import jax.numpy as jnp

    batch, height, width, _ = x.shape
    rows = [jnp.stack(phases[2 * p : 2 * p + 2], axis=3) for p in (0, 1)]  # [B, H, W, 2, O]
    return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, outputs)


def four_phases(x, w):
    """Computes a 2x2 convolution per output phase, with 4/9 of the plain form's products."""
    from jax import lax

    phases = [
        lax.conv_general_dilated(
            x,
            phase_kernel(phase_kernel(w, p, 0), q, 1),
            (1, 1),
            ((1 - p, p), (1 - q, q)),
            dimension_numbers=NHWC,
        )  # fmt: skip
        for p in (0, 1)
        for q in (0, 1)
    ]
    return interleave(phases, x, w.shape[-1])


def one_convolution(x, w):
    """Computes the phases as channels of one convolution on the padded grid, then cut out."""
    import jax.numpy as jnp
    from jax import lax

    height, width, outputs = x.shape[1], x.shape[2], w.shape[-1]
    order = [(p, q) for p in (0, 1) for q in (0, 1)]
    kernel = jnp.concatenate([phase_kernel(phase_kernel(w, p, 0), q, 1) for p, q in order], -1)
    y = lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=NHWC)
    parts = jnp.split(y, 4, axis=-1)
    phases = [y[:, p : p + height, q : q + width] for y, (p, q) in zip(parts, order, strict=True)]
    return interleave(phases, x, outputs)


def transposed(x, w):
    """Computes a transposed convolution: the 3x3 kernel spread over 4x4 by the 2x2 of ones."""
    import jax.numpy as jnp
    from jax import lax

    spread = [((a, 1 - a), (b, 1 - b), (0, 0), (0, 0)) for a in (0, 1) for b in (0, 1)]
    kernel = sum(jnp.pad(w, widths) for widths in spread)
    return lax.conv_general_dilated(
        x, kernel, (1, 1), ((2, 2), (2, 2)), lhs_dilation=(2, 2), dimension_numbers=NHWC
    )


def taps(x, w):
    """Adds nine products with the small image to their output pixels: the package's CPU form."""
    from unitok_jax.models import convolutions

    return convolutions._upsample_by_taps(x, w)


def corners(x, w):
    """Computes the phases around each corner of four pixels at once: the package's GPU form."""
    from unitok_jax.models import convolutions

    return convolutions._upsample_by_corners(x, w)


UPSAMPLE = {
    "plain": plain_upsample,
    "four phases": four_phases,
    "taps": taps,
    "corners": corners,
    "one convolution": one_convolution,
    "transposed": transposed,
}


# Exact GELU, any shape.


def library_gelu(x):
    """Computes 0.5 x erfc(-x / sqrt 2)."""
    import jax

    return jax.nn.gelu(x, approximate=False)


def erf_gelu(x):
    """Computes 0.5 x (1 + erf(x / sqrt 2)), PyTorch's form."""
    from jax import lax

    return 0.5 * x * (1 + lax.erf(x * ROOT_HALF))


GELU = {"jax.nn (erfc)": library_gelu, "erf": erf_gelu}


# Layer norm over the last axis: x [..., D], scale and bias [D].


def two_pass(x, scale, bias):
    """Normalises with the variance as the mean of squared differences."""
    from jax import lax

    x = x - x.mean(-1, keepdims=True)
    return x * lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6) * scale + bias


def one_pass(x, scale, bias):
    """Normalises with the variance as mean of squares less square of mean."""
    import jax.numpy as jnp
    from jax import lax

    mean = x.mean(-1, keepdims=True)
    variance = jnp.square(x).mean(-1, keepdims=True) - mean * mean
    return (x - mean) * lax.rsqrt(variance + 1e-6) * scale + bias


def library_norm(x, scale, bias):
    """Normalises with the library's standardisation, then scale and bias."""
    import jax

    return jax.nn.standardize(x, axis=-1, epsilon=1e-6) * scale + bias


NORM = {"jax.nn.standardize": library_norm, "two pass": two_pass, "one pass": one_pass}


# Attention: q, k, v [B, N, h, d] -> [B, N, h, d].


def library_attention(q, k, v):
    """Calls ``jax.nn.dot_product_attention``."""
    import jax

    return jax.nn.dot_product_attention(q, k, v)


def einsum_attention(q, k, v):
    """Computes attention by two einsums, without moving the axis of heads."""
    import jax
    import jax.numpy as jnp

    scores = jnp.einsum("bqhd,bkhd->bhqk", q * q.shape[-1] ** -0.5, k)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)


def heads_first_attention(q, k, v):
    """Computes attention by batched matrix products over [B, h, N, d]."""
    import jax

    q, k, v = (y.swapaxes(1, 2) for y in (q * q.shape[-1] ** -0.5, k, v))
    return (jax.nn.softmax(q @ k.swapaxes(2, 3)) @ v).swapaxes(1, 2)


ATTENTION = {
    "jax.nn": library_attention,
    "einsum": einsum_attention,
    "heads first": heads_first_attention,
}

# Nearest row by cosine: latent [B, N, K C], codebooks [K, V, C] -> codes [B, K, N].


def all_cosines(latent, rows):
    """Computes one product and one argmax for all codebooks."""
    import jax.numpy as jnp

    books, _, width = rows.shape
    chunks = latent.reshape(*latent.shape[:2], books, width)
    return jnp.argmax(jnp.einsum("bnkc,kvc->bknv", chunks, rows, precision="highest"), -1)


def nearest_with(form):
    """Builds a search of one codebook at a time."""

    def nearest(latent, rows):
        from jax import lax

        from unitok_jax.models.quantizers import base, multi_codebook

        chunks = base.split_chunks(latent, len(rows)).swapaxes(0, 1)
        return lax.map(lambda book: getattr(multi_codebook, form)(*book), (chunks, rows))

    return nearest


NEAREST = {
    "argmax, all books": all_cosines,
    "argmax": nearest_with("_argmax_rows"),
    "folded": nearest_with("_fold_rows"),
}

FORMULATIONS = {
    "depthwise": DEPTHWISE,
    "block": DEPTHWISE,
    "upsample": UPSAMPLE,
    "rgb": rgb_convolutions.FORMS,
    "gelu": GELU,
    "norm": NORM,
    "attention": ATTENTION,
    "nearest": NEAREST,
}

# Operation, direction, shape.  depthwise: B, H=W, C, stride; block: B, H=W, I, inner C, stride;
# upsample: B, H=W, I, O; rgb: B, H=W, I, O, side of the kernel, stride; attention: B, N, h, d;
# nearest: B, N, K, V, C.
CPU_CASES = [  # of the base model at 256 px
    ("depthwise", "forward", (1, 128, 512, 1)),
    ("depthwise", "forward", (1, 64, 1024, 1)),
    ("depthwise", "forward", (1, 32, 1024, 1)),
    ("depthwise", "forward", (1, 128, 512, 2)),
    ("depthwise", "forward", (1, 64, 1024, 2)),
    ("block", "forward", (1, 128, 128, 512, 1)),
    ("block", "forward", (1, 64, 256, 1024, 1)),
    ("block", "forward", (8, 64, 256, 1024, 1)),
    ("block", "forward", (1, 32, 256, 1024, 1)),
    ("block", "forward", (8, 32, 256, 1024, 1)),
    ("block", "forward", (1, 128, 128, 512, 2)),
    ("block", "forward", (1, 64, 128, 1024, 2)),
    ("block", "forward", (8, 64, 128, 1024, 2)),
    ("block", "gradient", (1, 64, 256, 1024, 1)),
    ("block", "gradient", (1, 32, 256, 1024, 1)),
    ("block", "gradient", (1, 64, 128, 1024, 2)),
    ("upsample", "forward", (1, 16, 768, 256)),
    ("upsample", "forward", (8, 16, 768, 256)),
    ("upsample", "forward", (1, 32, 256, 256)),
    ("upsample", "forward", (1, 32, 1024, 1024)),
    ("upsample", "forward", (1, 64, 256, 128)),
    ("upsample", "forward", (8, 64, 256, 128)),
    ("upsample", "forward", (1, 64, 512, 512)),
    ("upsample", "forward", (1, 128, 128, 128)),
    ("upsample", "gradient", (1, 16, 768, 256)),
    ("upsample", "gradient", (1, 32, 256, 256)),
    ("upsample", "gradient", (1, 64, 256, 128)),
    ("rgb", "forward", (1, 256, 3, 128, 3, 2)),
    ("rgb", "forward", (1, 256, 128, 3, 3, 1)),
    ("rgb", "forward", (1, 252, 3, 384, 14, 14)),
    ("gelu", "forward", (1, 32, 32, 1024)),
    ("gelu", "forward", (1, 64, 64, 1024)),
    ("gelu", "forward", (8, 64, 64, 1024)),
    ("gelu", "gradient", (1, 64, 64, 1024)),
    ("norm", "forward", (1, 256, 768)),
    ("norm", "forward", (8, 256, 768)),
    ("norm", "forward", (1, 64, 64, 256)),
    ("norm", "forward", (1, 256, 256, 128)),
    ("norm", "gradient", (8, 256, 768)),
    ("attention", "forward", (1, 256, 12, 64)),
    ("attention", "forward", (8, 256, 12, 64)),
    ("attention", "gradient", (1, 256, 12, 64)),
    ("nearest", "forward", (1, 256, 8, 4096, 8)),
    ("nearest", "forward", (8, 256, 8, 4096, 8)),
]
GPU_CASES = [  # of the large model, 32 images of 256 px; LPIPS; DINOv2's four views of 252 px
    (operation, direction, shape)
    for operation, shape in (
        ("upsample", (32, 16, 1024, 320)),
        ("upsample", (32, 32, 1280, 1280)),
        ("upsample", (32, 64, 640, 640)),
        ("upsample", (32, 128, 160, 160)),
        ("rgb", (32, 256, 160, 3, 3, 1)),
        ("rgb", (32, 256, 3, 160, 3, 2)),
        ("rgb", (32, 256, 3, 64, 3, 1)),
        ("rgb", (128, 252, 3, 384, 14, 14)),
        ("depthwise", (32, 64, 1280, 1)),
    )
    for direction in ("forward", "gradient")
]
CASES = {"cpu": CPU_CASES, "gpu": GPU_CASES}
DTYPES = {"cpu": "float32", "gpu": "bfloat16"}
# Left out, as their gradients take XLA seconds on a CPU, and the others a tenth of a second.
SLOW_GRADIENTS = {"grouped", "one convolution", "corners", "transposed"}
# What is timed on a GPU, where compilation is dear: first what the model computed at first.
GPU_FORMS = {
    "upsample": ("four phases", "corners", "taps", "plain"),
    "depthwise": ("grouped", "flat shifts"),
}


def arrays(operation: str, shape: tuple) -> list[np.ndarray]:
    """Draws inputs and parameters, float32, in JAX's layouts (NHWC, HWIO), variance-preserving."""
    rng = np.random.default_rng(0)

    def draw(*size, fan_in=1):
        return rng.standard_normal(size, np.float32) / np.float32(fan_in**0.5)

    batch = shape[0]
    if operation == "depthwise":
        _, side, channels, _ = shape
        return [draw(batch, side, side, channels), draw(3, 3, 1, channels, fan_in=9)]
    if operation == "block":
        _, side, width, inner, _ = shape
        expand, reduce = draw(width, inner, fan_in=width), draw(inner, width, fan_in=inner)
        kernel = draw(3, 3, 1, inner, fan_in=9)
        biases = [draw(inner), draw(inner), draw(width)]
        return [draw(batch, side, side, width), expand, kernel, reduce, *biases]
    if operation == "upsample":
        _, side, inputs, outputs = shape
        return [draw(batch, side, side, inputs), draw(3, 3, inputs, outputs, fan_in=9 * inputs)]
    if operation == "rgb":
        _, side, inputs, outputs, size, _ = shape
        kernel = draw(size, size, inputs, outputs, fan_in=size**2 * inputs)
        return [draw(batch, side, side, inputs), kernel]
    if operation == "gelu":
        return [draw(*shape)]
    if operation == "norm":
        return [draw(*shape), draw(shape[-1]), draw(shape[-1])]
    if operation == "nearest":
        _, tokens, books, entries, width = shape
        return [draw(batch, tokens, books * width), draw(books, entries, width)]
    return [draw(*shape) for _ in range(3)]  # q, k, v


def jax_operation(operation: str, formulation: str, shape: tuple):
    """Returns the function of ``arrays(operation, shape)`` to time."""
    function = FORMULATIONS[operation][formulation]
    if operation in ("depthwise", "rgb"):
        return functools.partial(function, stride=shape[-1])
    if operation != "block":
        return function
    stride = shape[-1]

    def block(x, expand, kernel, reduce, bias1, bias2, bias3):
        y = function(erf_gelu(x @ expand + bias1), kernel, stride)
        y = erf_gelu(y + bias2) @ reduce + bias3
        return x + y if stride == 1 else y

    return block


def jax_call(operation: str, direction: str, formulation: str, shape: tuple, dtype="float32"):
    """Returns a compiled call that returns when its result is ready."""
    import jax
    import jax.numpy as jnp

    function = jax_operation(operation, formulation, shape)
    inputs = [jnp.asarray(a, dtype) for a in arrays(operation, shape)]
    if direction == "gradient":
        forward, out = function, jax.eval_shape(function, *inputs)
        inputs.append(jnp.ones(out.shape, dtype))
        function = lambda *a: jax.vjp(forward, *a[:-1])[1](a[-1])  # noqa: E731
    compiled = jax.jit(function)
    return lambda: jax.block_until_ready(compiled(*inputs))


def torch_operation(operation: str, shape: tuple):
    """Returns PyTorch's function of the same arrays, in PyTorch's layouts."""
    import torch.nn.functional as F

    stride = shape[-1]

    def block(x, expand, kernel, reduce, bias1, bias2, bias3):
        y = F.gelu(F.conv2d(x, expand, bias1))
        y = F.gelu(F.conv2d(y, kernel, bias2, stride, padding=1, groups=len(kernel)))
        y = F.conv2d(y, reduce, bias3)
        return x + y if stride == 1 else y

    def nearest(latent, rows):
        import torch

        books, _, width = rows.shape
        chunks = latent.reshape(*latent.shape[:2], books, width)
        return torch.einsum("bnkc,kvc->bknv", chunks, rows).argmax(-1)

    return {
        "nearest": nearest,
        "depthwise": lambda x, w: F.conv2d(x, w, None, stride, padding=1, groups=len(w)),
        "block": block,
        "upsample": lambda x, w: F.conv2d(F.interpolate(x, scale_factor=2), w, padding=1),
        "rgb": lambda x, w: F.conv2d(x, w, None, stride, padding=int(w.shape[-1] != stride)),
        "gelu": F.gelu,
        "norm": lambda x, scale, bias: F.layer_norm(x, shape[-1:], scale, bias, 1e-6),
        "attention": F.scaled_dot_product_attention,
    }[operation]


def torch_call(operation: str, direction: str, shape: tuple):
    """Returns an eager call on channels_last images and kernels."""
    import torch

    torch.set_num_threads(2)

    def convert(index, array):
        tensor = torch.from_numpy(array)
        if operation == "attention":
            return tensor.transpose(1, 2)  # the view that a split qkv gives
        if operation not in ("depthwise", "block", "upsample", "rgb") or tensor.ndim == 1:
            return tensor
        if tensor.ndim == 2:
            tensor = tensor[None, None]
        tensor = tensor.permute(3, 2, 0, 1) if index else tensor.permute(0, 3, 1, 2)
        return tensor.contiguous(memory_format=torch.channels_last)

    inputs = [convert(i, a) for i, a in enumerate(arrays(operation, shape))]
    function = torch_operation(operation, shape)
    if direction == "forward":

        @torch.inference_mode()
        def call():
            return function(*inputs)

        return call
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    cotangent = torch.ones_like(function(*inputs))
    return lambda: torch.autograd.grad(function(*inputs), inputs, cotangent)


def fastest(call) -> float:
    """Measures the fastest call within about a tenth of a second, after one to fill the caches.

    The fastest, because PyTorch's threads wait for each other at every operation: a thread that
    loses its core to another process multiplies the time of a small operation.
    """
    call()
    seconds = []
    while sum(seconds) < 0.1:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def serve(library: str, dtype: str) -> None:
    """Answers cases on stdin with seconds of a call on stdout, until stdin ends."""
    build = functools.partial(jax_call, dtype=dtype) if library == "jax" else torch_call
    current, call = None, None
    for line in sys.stdin:
        *case, shape = json.loads(line)
        if current != line:
            call = build(*case, tuple(shape))
            current = line
            call()  # compiles
        print(fastest(call), flush=True)


class Worker:
    """Worker process that times calls of one formulation, or of PyTorch."""

    def __init__(self, python: str, library: str, machine: str):
        command = [python, "-m", "benchmarks.convolutions", "--serve", library]
        self.process = subprocess.Popen(
            [*command, "--machine", machine],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # The workers share a GPU: none may take its memory at once.
            env=os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        )

    def seconds(self, *case) -> float:
        """Measures one call.  Raises RuntimeError if the process died."""
        self.process.stdin.write(json.dumps(case) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"no answer for {case}")
        return float(answer)

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()


def measure(case: tuple, workers: dict[str, Worker], rounds: int) -> dict[str, list[float]]:
    """Measures seconds of every round of (operation, direction, shape), by worker."""
    operation, direction, shape = case
    times = {name: [] for name in workers}
    for turn in range(rounds):
        for name in [*workers][:: 1 if turn % 2 else -1]:
            formulation = () if name == "torch" else (name,)
            times[name].append(workers[name].seconds(operation, direction, *formulation, shape))
    return times


def table(operation: str, rounds: int, python: str, machine: str) -> None:
    """Prints the operation's cases on a machine, a row each."""
    names = list(FORMULATIONS[operation])
    if machine == "gpu":
        names = list(GPU_FORMS.get(operation, names))
    workers = {name: Worker(sys.executable, "jax", machine) for name in names}
    reference = names[0]
    if machine == "cpu":
        reference = "torch"
        workers[reference] = Worker(python, "torch", machine)
    title = "PyTorch" if reference == "torch" else reference
    print(f"\n| {operation} | | {title}, ms | {' | '.join(names)} |")
    print("|---" * (len(names) + 3) + "|")
    for case in (case for case in CASES[machine] if case[0] == operation):
        _, direction, shape = case
        slow = SLOW_GRADIENTS if (machine, direction) == ("cpu", "gradient") else ()
        fast = {name: worker for name, worker in workers.items() if name not in slow}
        times = measure(case, fast, rounds)
        cells = [f"{1e3 * statistics.median(times[reference]):.3g}"]
        for name in names:
            pairs = zip(times.get(name, ()), times[reference], strict=False)
            ratios = [ours / theirs for ours, theirs in pairs]
            cells.append(f"{statistics.median(ratios):.2f}" if ratios else "–")
        print(f"| {'×'.join(map(str, shape))} | {direction} | {' | '.join(cells)} |", flush=True)
    for worker in workers.values():
        worker.close()


def main() -> None:
    """Parses the command line and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--machine", choices=CASES, default="cpu", help="whose cases to time")
    parser.add_argument("--operations", nargs="+", choices=FORMULATIONS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--torch", default=sys.executable, help="interpreter that has PyTorch")
    parser.add_argument("--serve", choices=("jax", "torch"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, DTYPES[arguments.machine])
        return
    cases = dict.fromkeys(operation for operation, *_ in CASES[arguments.machine])
    unknown = set(arguments.operations or ()) - cases.keys()
    if unknown:
        parser.error(
            f"--operations {' '.join(sorted(unknown))}: --machine={arguments.machine} has cases "
            f"of {', '.join(cases)}"
        )
    for operation in arguments.operations or cases:
        table(operation, arguments.rounds, arguments.torch, arguments.machine)


if __name__ == "__main__":
    main()
