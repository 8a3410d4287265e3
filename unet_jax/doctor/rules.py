"""Everything the doctor looks for: one rule a kind of fault, with its weight and its mend."""

from typing import Literal, NamedTuple

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")


class Rule(NamedTuple):
    """An error stops a training or makes it learn wrong numbers, a warning harms the result, a note is to be known."""

    level: Level
    message: str
    mend: str


RULES: dict[str, Rule] = {
    # the folder
    "no-mask": Rule(
        "error", "images without a mask", "add the mask (all zero where there is nothing), or take the image away"
    ),
    "no-image": Rule("error", "masks without an image", "add the image, or take the mask away"),
    "almost-paired": Rule(
        "error", "image and mask whose names differ in spelling", "give both one name; --fix-to does"
    ),
    "two-files": Rule("error", "two files of one name", "rename or take away one of them"),
    "bad-name": Rule(
        "error",
        "a backslash, a line break or bytes that are no text in the name, which other systems do not take",
        "rename image and mask alike",
    ),
    "ignored-file": Rule(
        "warning",
        "files that are not read",
        "save images and masks as PNG, TIFF, BMP, GIF or JPEG (masks never as JPEG), or take them away",
    ),
    "case-clash": Rule(
        "warning", "names that differ only in upper and lower case, one file on macOS and Windows", "rename one of them"
    ),
    "index": Rule("error", "index.csv does not fit the images", "correct the table, or take it away"),
    "empty-split": Rule(
        "error",
        "too few images to split into training, validation and test",
        "give at least 3; experiments.train_folder trains on fewer, cut into windows",
    ),
    # each file
    "unreadable": Rule("error", "files that cannot be read", "copy or export them again"),
    "size-differs": Rule(
        "error", "image and mask of different sizes", "make the mask from this very image, neither resized nor turned"
    ),
    "affine-differs": Rule(
        "error",
        "volume and labels lie differently in space",
        "resample the labels onto the volume's grid, nearest neighbour",
    ),
    "channels-differ": Rule(
        "error",
        "images with another number of channels than most",
        "save all as grey, or all as RGB; --fix-to does where it changes no pixel",
    ),
    "not-finite": Rule(
        "error", "images that hold NaN or infinity", "replace these pixels, for example with numpy.nan_to_num"
    ),
    "alpha": Rule("note", "images with an alpha channel, which is dropped", "nothing, or --fix-to for a copy without"),
    "dtypes-differ": Rule(
        "warning",
        "images of another number type than most",
        "export all with the same bit depth; each image is normalised by itself, so it works",
    ),
    "flat-image": Rule(
        "warning", "images that are one grey almost everywhere", "take them away if the exposure failed"
    ),
    "low-contrast": Rule(
        "warning",
        "images whose contrast is below a 25th of the median image's",
        "take them away if the exposure failed; keep them if new images look like this",
    ),
    "saturated": Rule(
        "warning",
        "overexposed images: 5 % of the pixels or more at the brightest value",
        "expose shorter; what is clipped cannot be brought back",
    ),
    "odd-size": Rule(
        "note",
        "images whose sides the network's levels do not divide",
        "nothing: they are cropped for training and padded for prediction",
    ),
    "small-image": Rule(
        "note",
        "images smaller than the training crop",
        "nothing: they are padded, and the padding is not counted; or a smaller --patch",
    ),
    # each mask
    "lossy-mask": Rule(
        "error",
        "masks with lossy compression, which alters their numbers",
        "export them as PNG; --fix-to with --threshold 128 if they are black and white",
    ),
    "colour-mask": Rule(
        "error",
        "masks that are colour drawings",
        "save them as grey PNG with one number a class or object; experiments.train_folder learns colours as they are",
    ),
    "alpha-mask": Rule(
        "error", "masks drawn in the alpha channel", "flatten them on black and save them as 8-bit grey PNG"
    ),
    "fraction-mask": Rule(
        "error",
        "masks that hold fractions",
        "save whole numbers, one a class or object; --fix-to with --threshold if they are probabilities",
    ),
    "anti-aliased": Rule(
        "error",
        "black and white masks with greys between",
        "export them without anti-aliasing or resizing; --fix-to with --threshold 128",
    ),
    "mixed-foreground": Rule(
        "error",
        "foreground is not the same number in all masks",
        "--label-kind binary if everything that is not 0 is foreground; --fix-to makes it 1",
    ),
    "kind-open": Rule(
        "error",
        "the masks do not tell whether their numbers are objects or classes",
        "give --label-kind instances, binary or classes",
    ),
    "label-range": Rule(
        "error",
        "masks with numbers that cannot be labels",
        "--ignore VALUE if these pixels do not count, else renumber them",
    ),
    "undeclared-label": Rule(
        "error", "label values that dataset.json does not name", "name them there, or renumber them"
    ),
    "foreground-number": Rule(
        "note",
        "black and white masks whose white is not 1, such as 0/255; it is read as 1",
        "nothing, or --fix-to for a copy in 0/1",
    ),
    "empty-mask": Rule("note", "masks without any object", "nothing if there truly is none, else draw what is missing"),
    "full-mask": Rule(
        "warning", "masks without any background", "look whether the mask is filled or inverted by mistake"
    ),
    "split-object": Rule(
        "warning",
        "object numbers that lie in several separate pieces",
        "give each object its own number: objects are scored and separated by it",
    ),
    "specks": Rule(
        "warning",
        "objects of 1 to 3 pixels, as a slipped pen leaves them",
        "erase them, or merge them with their object",
    ),
    "little-foreground": Rule(
        "warning",
        "foreground covers less than 0.5 % of all pixels",
        "choose --loss focal or dice+bce; crop to where the objects are",
    ),
    "rare-class": Rule(
        "warning",
        "classes that are missing in training, validation or test",
        "add images with them, or merge the class with another",
    ),
    "foreign-mask": Rule(
        "warning",
        "objects no brighter or darker than what surrounds them, unlike in the other images",
        "look whether the mask belongs to this image, and is not turned",
    ),
    # across files
    "same-mask": Rule("warning", "one mask for different images", "look whether a mask was copied to the wrong name"),
    "contradiction": Rule(
        "warning", "the same image with different masks", "keep the right mask and take the other pair away"
    ),
    "duplicate": Rule("warning", "the same image several times", "keep one of them"),
    "duplicate-across-splits": Rule(
        "warning", "the same image in training and in validation or test: scores would be too good", "keep one of them"
    ),
    "near-duplicate": Rule(
        "warning", "almost the same image several times", "keep one of them, or know that they count several times"
    ),
    "near-duplicate-across-splits": Rule(
        "warning",
        "almost the same image in training and in validation or test: scores would be too good",
        "keep one of them, or split by specimen",
    ),
}
