"""Small colour fonts, written with fontTools: every picture is a square of one colour."""

import io

from fontTools.feaLib.builder import addOpenTypeFeaturesFromString
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTFont, newTable
from fontTools.ttLib.tables import C_B_D_T_, E_B_L_C_, sbixGlyph, sbixStrike
from fontTools.ttLib.tables.BitmapGlyphMetrics import SmallGlyphMetrics
from PIL import Image

SIDE = 24  # pixels of a picture, and pixels per em
MISSING = ".notdef"  # as a key of `colours`: the picture of missing characters
_METRICS = ("height", "width", "BearingX", "BearingY", "Advance")
_HIDDEN = ("\u200d", "\ufe0f")  # have glyphs without width or picture


def png(colour, size=(SIDE, SIDE)) -> bytes:
    file = io.BytesIO()
    Image.new("RGBA", size, colour).save(file, "PNG")
    return file.getvalue()


def write_sbix(path, colours, *, ppem=SIDE, size=(SIDE, SIDE)):
    """Writes a font with an sbix table, as Apple's.

    colours: sequence -> RGB or RGBA; a sequence of several code points has one glyph of its own.
    """
    font = without_pictures(colours)
    strike = sbixStrike.Strike(ppem=ppem, resolution=72)
    for text, colour in colours.items():
        name, image = _name(text), png(colour, size)
        strike.glyphs[name] = sbixGlyph.Glyph(glyphName=name, graphicType="png ", imageData=image)
    table = font["sbix"] = newTable("sbix")
    table.version, table.flags, table.strikes = 1, 1, {ppem: strike}
    font.save(path)
    return path


def write_cbdt(path, colours, *, ppem=SIDE):
    """Writes a font with CBLC and CBDT tables and no outlines, as Noto's."""
    font = without_pictures(colours)
    pictures = {}
    for text, colour in colours.items():
        picture = C_B_D_T_.cbdt_bitmap_format_17(b"", font)
        picture.imageData, picture.metrics = png(colour), SmallGlyphMetrics()
        for key, value in zip(_METRICS, (SIDE, SIDE, 0, SIDE, SIDE), strict=True):
            setattr(picture.metrics, key, value)
        pictures[_name(text)] = picture
    index = E_B_L_C_.eblc_index_sub_table_1(b"", font)
    index.names = sorted(pictures, key=font.getGlyphID)
    index.firstGlyphIndex, index.lastGlyphIndex = (font.getGlyphID(index.names[k]) for k in (0, -1))
    index.indexFormat, index.imageFormat, index.imageSize = 1, 17, 0
    size = E_B_L_C_.BitmapSizeTable()
    size.ppemX = size.ppemY = ppem
    size.bitDepth, size.flags, size.colorRef = 32, 1, 0
    size.startGlyphIndex, size.endGlyphIndex = index.firstGlyphIndex, index.lastGlyphIndex
    for name in ("hori", "vert"):
        line = E_B_L_C_.SbitLineMetrics()
        for key in E_B_L_C_.sstruct.getformat(E_B_L_C_.sbitLineMetricsFormat)[1]:
            setattr(line, key, 0)
        line.ascender = line.widthMax = ppem
        setattr(size, name, line)
    strike = E_B_L_C_.Strike()
    strike.bitmapSizeTable, strike.indexSubTables = size, [index]
    font["CBLC"], font["CBDT"] = newTable("CBLC"), newTable("CBDT")
    font["CBLC"].version = font["CBDT"].version = 3.0
    font["CBLC"].strikes, font["CBDT"].strikeData = [strike], [pictures]
    for name in ("glyf", "loca"):
        del font[name]
    font.save(path)
    return path


def without_pictures(colours) -> TTFont:
    """Builds the glyphs, their widths, and the rule of each sequence."""
    texts = [text for text in colours if text != MISSING]
    characters = sorted({*_HIDDEN, *"".join(texts)})
    joined = sorted((text for text in texts if len(text) > 1), key=len, reverse=True)
    order = [MISSING, *map(_name, characters), *map(_name, joined)]
    font = FontBuilder(1024, isTTF=True)
    font.setupGlyphOrder(order)
    font.setupCharacterMap({ord(character): _name(character) for character in characters})
    font.setupGlyf(dict.fromkeys(order, TTGlyphPen(None).glyph()))
    widths = dict.fromkeys(order, (1024, 0)) | dict.fromkeys(map(_name, _HIDDEN), (0, 0))
    font.setupHorizontalMetrics(widths)
    font.setupHorizontalHeader(ascent=1024, descent=0)
    font.setupOS2()
    font.setupPost()
    font.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    rules = (f"sub {' '.join(map(_name, text))} by {_name(text)};" for text in joined)
    if joined:
        rule = "feature ccmp {" + " ".join(rules) + "} ccmp;"
        addOpenTypeFeaturesFromString(font.font, rule)
    return font.font


def _name(text: str) -> str:
    return text if text == MISSING else "_".join(f"u{ord(c):x}" for c in text)
