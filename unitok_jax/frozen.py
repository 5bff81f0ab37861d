"""The networks that losses and metrics use and nothing trains: their files, names and loading."""

# (pattern of our path, PyTorch's name, axis order): see torch_layout
LPIPS_ROWS = (
    *(
        (rf"slices\.{s}\.{i}\.{ours}", f"net.slice{s + 1}.{2 * i + (s > 0)}.{theirs}", order)
        for s in range(5)
        for i in range(3)
        for ours, theirs, order in (("kernel", "weight", "conv"), ("bias", "bias", "same"))
    ),
    (r"heads\.(\d)", r"lins.\1.model.1.weight", "1x1"),
)
DINOV2_ROWS = (
    (r"cls_token|pos_embed", r"\g<0>", "same"),
    (r"patch_embed\.proj\.kernel", r"patch_embed.proj.weight", "conv"),
    (r"patch_embed\.proj\.bias", r"patch_embed.proj.bias", "same"),
    (r"blocks\.block\.(.*)\.kernel", r"blocks.{i}.\1.weight", "linear"),
    (r"blocks\.block\.(.*)\.scale", r"blocks.{i}.\1.weight", "same"),
    (r"blocks\.block\.(.*\.(?:bias|gamma))", r"blocks.{i}.\1", "same"),
)
