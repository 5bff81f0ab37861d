"""A card as pages: Markdown, and HTML that holds its pictures."""

import base64
import html
import pathlib
from typing import Any

# (key in card.json's `metrics`, name, format, which is better, what it is)
FIGURES = (
    ("rfid", "rFID", "{:.3f}", "lower", "Fréchet distance of Inception features to the originals"),
    ("fid_reference", "FID to reference", "{:.3f}", "lower", "the same, to the file given"),
    ("gfid", "gFID", "{:.3f}", "lower", "Fréchet distance of Inception features to the reference"),
    ("sfid", "sFID", "{:.3f}", "lower", "the same, of spatial features"),
    ("inception_score", "Inception score", "{:.3f}", "higher", "of the images that were made"),
    ("inception_score_std", "Inception score, ±", "{:.3f}", "", "deviation over 10 splits"),
    ("precision", "precision", "{:.4f}", "higher", "samples within the reference's manifold"),
    ("recall", "recall", "{:.4f}", "higher", "reference within the samples' manifold"),
    ("clip_score", "CLIP score", "{:.2f}", "higher", "cosine of images and captions, x 100"),
    ("psnr", "PSNR", "{:.2f} dB", "higher", "mean over images, 8-bit pictures"),
    ("ssim", "SSIM", "{:.4f}", "higher", "11x11 Gaussian window, as published"),
    ("ssim_uniform", "SSIM, uniform window", "{:.4f}", "higher", "7x7, as scikit-image"),
    ("lpips", "LPIPS", "{:.4f}", "lower", "learned distance, VGG16"),
    ("zero_shot_top1", "zero-shot top-1", "{:.1%}", "higher", "images and names of classes"),
    ("zero_shot_top5", "zero-shot top-5", "{:.1%}", "higher", ""),
    ("image_to_text", "image to text R@1", "{:.1%}", "higher", "captions found by images"),
    ("image_to_text_r5", "image to text R@5", "{:.1%}", "higher", ""),
    ("image_to_text_r10", "image to text R@10", "{:.1%}", "higher", ""),
    ("text_to_image", "text to image R@1", "{:.1%}", "higher", "images found by captions"),
    ("text_to_image_r5", "text to image R@5", "{:.1%}", "higher", ""),
    ("text_to_image_r10", "text to image R@10", "{:.1%}", "higher", ""),
    ("probe_top1", "linear probe top-1", "{:.1%}", "higher", "a linear classifier of features"),
    ("probe_top5", "linear probe top-5", "{:.1%}", "higher", ""),
    ("bits_per_token", "bits per token", "{:.2f}", "higher", "entropy of the codes, all codebooks"),
    (
        "max_bits_per_token",
        "bits per token, at most",
        "{:.2f}",
        "",
        "if all codes came equally often",
    ),
    ("codes_changed", "codes changed by bfloat16", "{:.3%}", "lower", "beside float32"),
    ("tokens_changed", "tokens changed by bfloat16", "{:.3%}", "lower", "one code or more"),
)
_KINDS = {"best": "Best", "median": "Median", "worst": "Worst"}


def rows(card: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(name, value, which is better, what it is) of every figure that a card has."""
    return [
        (name, "∞ dB" if value == "inf" else form.format(value), better, what)
        for key, name, form, better, what in FIGURES
        if (value := card["metrics"].get(key)) is not None
    ]


def _codebooks(card):
    books = card["codebooks"]
    for book, usage in enumerate(books["usage"]):
        cells = [str(book), f"{usage:.1%}", f"{books['usage_of_usable'][book]:.1%}"]
        cells.append(f"{books['perplexity'][book]:.1f}")
        cells.append(str(books["dead"][book]))
        if "codes_changed_per_book" in books:
            cells.append(f"{books['codes_changed_per_book'][book]:.3%}")
        yield cells


def _codebook_columns(card):
    columns = ["codebook", "rows in use", "of the usable", "perplexity", "dead rows"]
    return columns + (["changed"] if "codes_changed_per_book" in card["codebooks"] else [])


def _usable(card):
    books = card["codebooks"]
    return (
        f"{books['tokens']:,} tokens were measured; they can use at most {books['usable']:,} of "
        f"the {books['rows']:,} rows of a codebook."
    )


def _provenance(card):
    for key, value in card["provenance"].items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {text}" for name, text in value.items())
        yield key.replace("_", " "), str(value)


def markdown(card: dict[str, Any]) -> str:
    """card.md of a card."""
    lines = [f"# {card['title']}", "", f"{card['images']} images of `{card['data']}`.", ""]
    lines += [f"> **{warning}**\n" for warning in card["warnings"]]
    lines += _table(["figure", "value", "better", "what"], rows(card))
    lines += _reconstructions(card) if "codebooks" in card else _samples(card)
    lines += ["## Not measured", ""] if card["not_measured"] else []
    lines += [f"- {m['what']}: {m['reason']}. {m['to_measure']}" for m in card["not_measured"]]
    lines += ["", "## Where this comes from", ""] + _table(["", ""], _provenance(card)) + [""]
    return "\n".join(lines)


def _reconstructions(card):
    lines = ["", "## Codebooks", "", _usable(card), ""]
    lines += _table(_codebook_columns(card), _codebooks(card))
    lines += ["", "![code use](pictures/code_use.png)", "", "![code map](pictures/code_map.png)"]
    lines += ["", "## Reconstructions", "", "Original, reconstruction, error x 2.", ""]
    for shown in card["pictures"]:
        title = f"{_KINDS[shown['kind']]}: {shown['name']}, {_decibels(shown)}"
        lines += [f"![{_cell(title)}]({shown['file']})", "", title, ""]
    return lines


def _samples(card):
    return ["", "## The first samples", "", f"![samples]({card['sheet']})", ""]


def _table(columns, cells):
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    return lines + ["| " + " | ".join(map(_cell, row)) + " |" for row in cells]


def _cell(text):
    return str(text).replace("|", "\\|").replace("\n", " ")


def _decibels(shown):
    return "identical" if shown["psnr"] == "inf" else f"{shown['psnr']:.2f} dB"


_STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5d6772;--line:#dfe3e8;--back:#fff;
--tile:#f5f7f9;--warn:#fff4d6;--accent:#2662b5}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#9aa4af;--line:#333a42;--back:#15181c;
--tile:#1e2328;--warn:#44380f;--accent:#7fb0f5}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1040px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:26px;margin:0;overflow-wrap:anywhere}h2{font-size:18px;margin:34px 0 10px}
p{margin:4px 0}.soft{color:var(--soft)}
.warn{background:var(--warn);border-radius:8px;padding:9px 14px;margin:12px 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(190px,1fr));gap:10px;margin-top:18px}
.tile{background:var(--tile);border-radius:10px;padding:11px 14px}
.tile b{display:block;font-size:23px;font-weight:600;font-variant-numeric:tabular-nums}
.tile small{color:var(--soft);display:block;line-height:1.35}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:5px 10px 5px 0;border-bottom:1px solid var(--line);
overflow-wrap:anywhere;vertical-align:top}
th{color:var(--soft);font-weight:500;white-space:nowrap}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(310px,1fr));gap:16px}
figure{margin:0}figure img,.wide{max-width:100%;border-radius:6px;background:#fff;display:block}
figure img{width:100%;image-rendering:pixelated}
figcaption{color:var(--soft);font-size:13px;overflow-wrap:anywhere}
"""


def page(card: dict[str, Any], folder: pathlib.Path) -> str:
    """card.html of a card; its pictures, which lie in `folder`, become part of it."""
    text = html.escape

    def picture(name, kind=""):
        data = base64.b64encode((folder / name).read_bytes()).decode()
        return f'<img {kind} alt="{text(name)}" src="data:image/png;base64,{data}">'

    tiles = "".join(
        f'<div class="tile"><small>{text(name)}</small><b>{text(value)}</b><small>'
        + text(", ".join(part for part in (better and f"{better} is better", what) if part))
        + "</small></div>"
        for name, value, better, what in rows(card)
    )
    sections = _reconstructions_html if "codebooks" in card else _samples_html
    missing = "".join(
        f"<tr><th>{text(m['what'])}</th><td>{text(m['reason'])}</td>"
        f"<td>{text(m['to_measure'])}</td></tr>"
        for m in card["not_measured"]
    )
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{text(card['title'])}</title><style>{_STYLE}</style><main>",
        f"<h1>{text(card['title'])}</h1>",
        f'<p class="soft">{card["images"]} images of {text(card["data"])}</p>',
        *(f'<p class="warn">{text(warning)}</p>' for warning in card["warnings"]),
        f'<div class="tiles">{tiles}</div>',
        *sections(card, picture),
        f"<h2>Not measured</h2><table>{missing}</table>" if missing else "",
        "<h2>Where this comes from</h2>" + _html_table((), _provenance(card)),
        "</main></html>",
    ]
    return "\n".join(parts)


def _reconstructions_html(card, picture):
    text = html.escape
    figures = "".join(
        f"<figure>{picture(shown['file'])}<figcaption>{_KINDS[shown['kind']]}: "
        f"{text(shown['name'])}, {_decibels(shown)}</figcaption></figure>"
        for shown in card["pictures"]
    )
    return (
        "<h2>Reconstructions</h2><p class=soft>Original, reconstruction, error x 2; best, median "
        f'and worst by PSNR.</p><div class="pictures">{figures}</div>',
        f"<h2>Codebooks</h2><p class=soft>{_usable(card)}</p>"
        + _html_table(_codebook_columns(card), _codebooks(card)),
        "<h2>How often codes are chosen</h2><p class=soft>Rows of each codebook, most frequent "
        "first; dead rows are the empty part.</p>" + picture("pictures/code_use.png", "class=wide"),
        f"<h2>Codes of one image</h2><p class=soft>{text(card['code_map'])}, and a map of each "
        "codebook: equal colours are equal codes.</p>"
        + picture("pictures/code_map.png", "class=wide"),
    )


def _samples_html(card, picture):
    return ("<h2>The first samples</h2>" + picture(card["sheet"], "class=wide"),)


def _html_table(columns, cells):
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join(
        f"<tr><th>{html.escape(row[0])}</th>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in cells
    )
    return f"<table>{f'<tr>{head}</tr>' if head else ''}{body}</table>"
