"""Photographs for a first run without a data set: the images inside the scikit-image package, with
captions written for this project."""

import importlib.util
from pathlib import Path

from unitok_jax.system.extras import how_to_install

CAPTIONS: dict[str, tuple[str, ...]] = {
    "astronaut.png": (
        "a smiling astronaut in an orange space suit",
        "portrait of a woman astronaut holding her helmet on her lap",
        "a woman with short blond hair in front of an American flag and a model space shuttle",
        "an official portrait of an astronaut with mission patches on her orange suit",
        "an astronaut poses beside a model of the space shuttle",
    ),
    "brick.png": (
        "a wall of dark bricks with pale mortar, in black and white",
        "a photograph of brickwork seen at an angle",
        "upright rows of narrow bricks separated by light joints",
        "the regular pattern of a brick surface filling the frame",
    ),
    "camera.png": (
        "a man in a dark coat looks through a camera on a tripod",
        "a black and white photo of a cameraman on a lawn",
        "a photographer in gloves bends over his camera, buildings far behind him",
        "a man filming on a wide field with a tall building in the distance",
        "side view of a man with black hair working a camera on a tripod",
    ),
    "cell.png": (
        "a single round cell floating in saline under a microscope",
        "a bright disc on a dark grey background, a cell in a phase microscope",
        "a microscope image of one glowing spherical cell",
        "a grey microscope picture with one pale round cell right of the centre",
    ),
    "chelsea.png": (
        "a close-up of a tabby cat's face",
        "a cat with green eyes looks past the camera",
        "the face of a ginger and brown striped cat with long white whiskers",
        "a photo of a cat indoors, its nose in sharp focus",
        "a tabby kitten gazing to the right",
    ),
    "clock_motion.png": (
        "a wall clock blurred by the motion of the camera",
        "a shaky, unreadable picture of a round clock on a grey wall",
        "a black and white photo of a clock smeared sideways",
        "a pale oval blur in the middle of a plain grey wall",
    ),
    "coffee.png": (
        "a cup of espresso on a red saucer",
        "a red and white coffee cup with a small spoon on a wooden table",
        "freshly made coffee seen from above, with a metal spoon beside the cup",
        "an espresso with golden foam standing on polished wood",
        "a drink in a thick-walled red cup on a matching saucer",
    ),
    "coins.png": (
        "rows of ancient coins on a dark background",
        "twenty-four Greek coins from Pompeii laid out in four rows",
        "a black and white photo of a collection of old coins with heads on them",
        "worn silver coins of different sizes arranged in a grid",
        "a museum picture of antique coins",
    ),
    "grass.png": (
        "a lawn seen from above, in black and white",
        "blades of grass with clover and fallen leaves between them",
        "a close view of grass covering the ground",
        "a grey texture of short grass and small weeds",
    ),
    "gravel.png": (
        "a bed of grey gravel",
        "many small angular stones covering the ground",
        "crushed rock photographed from above in black and white",
        "a texture of loose pebbles with sharp edges",
    ),
    "hubble_deep_field.jpg": (
        "thousands of distant galaxies in the Hubble deep field",
        "a deep view into space, full of galaxies on a black sky",
        "a space telescope picture of galaxies in orange, white and blue",
        "countless tiny spirals and specks of light in the dark universe",
        "an astronomical photograph of very remote galaxies",
    ),
    "ihc.png": (
        "colon tissue stained brown and blue under a microscope",
        "a histology slide of intestinal glands with brown staining",
        "an immunohistochemistry picture with blue cell nuclei between brown glands",
        "a thin section of human tissue, glands brown and connective tissue pale blue",
        "a pathology microscope image of stained epithelial cells",
    ),
    "microaneurysms.png": (
        "a small detail of a retina with thin dark blood vessels",
        "three fine vessels crossing a dark grey eye background from side to side",
        "a grey crop of an eye scan with tiny dark spots, microaneurysms",
        "a low-resolution medical picture of lesions in the retina",
    ),
    "moon.png": (
        "craters on the surface of the moon",
        "a grey photograph of the lunar surface taken from orbit",
        "a smooth plain on the moon with one large round crater at the upper left",
        "a spacecraft's view of pits and dark patches in moon dust",
    ),
    "motorcycle_left.png": (
        "a red motorcycle parked in a garage",
        "a shiny red motorbike on its stand in front of metal shelves",
        "a Yamaha motorcycle with a black seat on a concrete floor",
        "a garage with a wooden bench, cardboard boxes and a red motorcycle",
        "side view of a motorcycle with a chrome engine and exhaust",
    ),
    "retina.jpg": (
        "a fundus photograph of a human eye",
        "an orange-red retina with branching blood vessels and a bright optic disc",
        "the round view into the back of an eye on a black background",
        "an eye doctor's picture of a healthy retina",
        "blood vessels spreading from the optic nerve across an orange disc",
    ),
    "rocket.jpg": (
        "a white rocket on its launch pad at dusk",
        "a rocket stands between lattice towers under a dark blue evening sky",
        "bright lamps shine around a rocket before its launch",
        "a Falcon 9 waiting for lift-off after sunset",
        "a spaceport in the evening with a tall rocket in the middle",
    ),
    "text.png": (
        "handwritten mathematics on lined paper",
        "a tilted close-up of a formula with an integral sign written in ink",
        "a blurry grey photo of equations in someone's handwriting",
        "black pen strokes spelling out symbols on a ruled sheet of paper",
    ),
}


def photo_folder() -> Path:
    """Finds the folder of the installed scikit-image that holds the files of `CAPTIONS`.

    Raises:
        ImportError: scikit-image is not installed.
    """
    # Located without import: importing scikit-image is slow, and its data functions download.
    package = importlib.util.find_spec("skimage")
    if package is None:
        raise ImportError(
            "data.source=photos reads the photographs inside scikit-image, which is not installed: "
            f"{how_to_install('photos')}; or set --config.data.source=folder "
            "--config.data.path=..."
        )
    return Path(package.submodule_search_locations[0], "data")
