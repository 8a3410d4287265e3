"""The data doctor: what is wrong with a folder of images and masks, before a training finds out.

`check_folder` reads everything once and gives a `Report`, `quick` looks at names, first bytes and hashes alone, and
`write_mended` copies a folder with what can safely be mended. `rules.RULES` lists everything that is looked for.
"""

from unet_jax.doctor.checkup import Report, announce, check_folder, quick
from unet_jax.doctor.findings import Case, Finding
from unet_jax.doctor.mend import write_mended
from unet_jax.doctor.picture import draw
from unet_jax.doctor.rules import RULES

__all__ = ["RULES", "Case", "Finding", "Report", "announce", "check_folder", "draw", "quick", "write_mended"]
