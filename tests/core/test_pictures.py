"""Formats: what goes in, against values worked out by hand or by plain NumPy."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from laser_core.pictures import read_picture, to_mask, to_picture, to_tensor

RNG_PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def pixels_of(value):
    picture = to_picture(value)
    assert picture.mode == "RGB"
    return np.asarray(picture)


def grey(*values):
    """(1, N, 3): one row of greys as RGB."""
    return np.repeat(np.array(values, dtype=np.uint8)[None, :, None], 3, axis=2)


def through_file(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return Image.open(file)


# PIL pictures


def test_an_rgb_picture_keeps_its_pixels():
    np.testing.assert_array_equal(pixels_of(Image.fromarray(RNG_PIXELS)), RNG_PIXELS)


def test_the_result_is_a_new_picture():
    original = Image.fromarray(RNG_PIXELS)
    to_picture(original).paste((0, 0, 0), (0, 0, 7, 5))
    np.testing.assert_array_equal(np.asarray(original), RNG_PIXELS)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, np.fliplr),
        (3, lambda a: np.rot90(a, 2)),
        (4, np.flipud),
        (5, lambda a: a.swapaxes(0, 1)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).swapaxes(0, 1)),
        (8, np.rot90),
    ],
)
def test_every_exif_orientation_is_applied(orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = through_file(Image.fromarray(RNG_PIXELS), "PNG", exif=exif)
    np.testing.assert_array_equal(pixels_of(image), upright(RNG_PIXELS))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("junk", [b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"junk", b"Exif\0\0II*\0"])
def test_a_broken_exif_block_does_not_cost_the_picture(junk):
    image = through_file(Image.fromarray(RNG_PIXELS), "PNG", exif=junk)
    np.testing.assert_array_equal(pixels_of(image), RNG_PIXELS)


@pytest.mark.parametrize(("alpha", "expected"), [(0, 255), (255, 100), (51, 224)])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGBa"])
def test_transparency_is_laid_on_white(mode, alpha, expected):
    colour = (100, alpha) if mode == "LA" else (100, 100, 100, alpha)
    image = Image.new("LA" if mode == "LA" else "RGBA", (1, 1), colour).convert(mode)
    np.testing.assert_array_equal(pixels_of(image), grey(expected))


def test_a_transparent_palette_colour_becomes_white():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    image = through_file(image, "PNG", transparency=0)
    np.testing.assert_array_equal(pixels_of(image), [[[255, 255, 255], [40, 50, 60]]])


def test_a_transparent_grey_becomes_white():
    image = through_file(Image.fromarray(np.array([[7, 8]], np.uint8)), "PNG", transparency=7)
    np.testing.assert_array_equal(pixels_of(image), grey(255, 8))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV"])
def test_other_modes_become_what_pil_makes_of_them(mode):
    image = Image.fromarray(RNG_PIXELS).convert(mode)
    np.testing.assert_array_equal(pixels_of(image), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B"])
def test_sixteen_bit_greys_are_scaled_by_65535(mode):
    order = ">u2" if mode.endswith("B") else "<u2"
    values = np.array([0, 257, 32768, 65535], dtype=order)
    image = Image.frombytes(mode, (4, 1), values.tobytes())
    np.testing.assert_array_equal(pixels_of(image), grey(0, 1, 128, 255))


def test_a_dark_sixteen_bit_picture_stays_dark():
    image = Image.frombytes("I;16", (2, 1), np.array([0, 255], dtype="<u2").tobytes())
    np.testing.assert_array_equal(pixels_of(image), grey(0, 1))


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("I", [0, 100, 255], (0, 100, 255)),
        ("I", [0, 257, 65535], (0, 1, 255)),
        ("I", [-5, 100000, 200000], (0, 128, 255)),
        ("F", [-0.5, 0.5, 1.0], (0, 128, 255)),
        ("F", [0.0, 100.0, 255.0], (0, 100, 255)),
        ("F", [0.0, 257.0, 65535.0], (0, 1, 255)),
        ("F", [0.0, 100000.0, 200000.0], (0, 128, 255)),
    ],
)
def test_wide_greys_are_scaled_to_the_first_white_that_holds_them(mode, values, expected):
    image = Image.fromarray(np.array([values], dtype=np.int32 if mode == "I" else np.float32))
    assert image.mode == mode
    np.testing.assert_array_equal(pixels_of(image), grey(*expected))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_gives_its_first_frame_and_stays_where_it_was(kind):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    animation = through_file(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    animation.seek(2)
    assert tuple(pixels_of(animation)[0, 0]) == (255, 0, 0)
    assert animation.tell() == 2


def test_an_empty_pil_picture_is_refused():
    with pytest.raises(ValueError, match="pass a picture that has pixels: this one is 0x4"):
        to_picture(Image.new("RGB", (0, 4)))


def test_a_mode_without_a_way_to_rgb_is_refused_with_its_name():
    with pytest.raises(ValueError, match="save the picture as RGB: its mode is La"):
        to_picture(Image.new("La", (2, 2)))


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_broken_values_in_a_float_picture_are_refused(broken):
    with pytest.raises(ValueError, match="fix the picture"):
        to_picture(Image.fromarray(np.array([[0.5, broken]], dtype=np.float32)))


# Arrays


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, ">u2", np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)])
def test_arrays_keep_the_values_of_their_number_format(dtype, shape):
    bytes_ = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    if len(shape) == 3 and shape[2] == 4:
        bytes_[..., 3] = 255
    dtype = np.dtype(dtype)
    values = {
        "f": bytes_ / 255,
        "u": bytes_.astype(np.uint32) * (257 if dtype.itemsize == 2 else 1),
    }
    three = np.broadcast_to(bytes_.reshape(5, 7, -1)[..., :3], (5, 7, 3))
    np.testing.assert_array_equal(pixels_of(values[dtype.kind].astype(dtype)), three)


def test_a_boolean_array_is_black_and_white():
    np.testing.assert_array_equal(pixels_of(np.array([[True, False]])), grey(255, 0))


def test_an_arrays_alpha_is_laid_on_white():
    np.testing.assert_array_equal(pixels_of(np.array([[[0.0, 0.0, 0.0, 0.2]]])), grey(204))


def test_a_little_overshoot_of_floats_is_clamped():
    np.testing.assert_array_equal(pixels_of(np.array([[-0.3, 1.2]])), grey(0, 255))


def test_an_array_that_is_not_contiguous_is_read_rightly():
    np.testing.assert_array_equal(pixels_of(RNG_PIXELS[::-1, ::2]), RNG_PIXELS[::-1, ::2])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((2, 2), 200.0), "divide the picture by 255.*these reach 200"),
        (np.zeros((2, 2), dtype=np.int64), "convert the picture to uint8.*are int64"),
        (np.zeros((2, 2), dtype=complex), "convert the picture to uint8.*are complex128"),
        (np.zeros((3, 5, 7)), r"arrange the picture as \(height, width, channels\).*\(3, 5, 7\)"),
        (np.zeros((5, 7, 2)), r"arrange the picture as .*\(5, 7, 2\)"),
        (np.zeros((1, 5, 7, 3)), r"arrange the picture as .*\(1, 5, 7, 3\)"),
        (np.zeros(5), r"arrange the picture as .*\(5,\)"),
        (np.zeros((0, 7, 3)), r"pass a picture that has pixels: its shape is \(0, 7, 3\)"),
        (np.array([[0.5, np.nan]]), "fix the picture"),
        (np.array([[0.5, np.inf]]), "fix the picture"),
    ],
)
def test_an_array_that_is_no_picture_is_refused_with_the_remedy(array, message):
    with pytest.raises(ValueError, match=message):
        to_picture(array)


@pytest.mark.parametrize("value", [None, "cat.png", [[0, 1]], 3])
def test_another_type_is_refused_with_its_name(value):
    with pytest.raises(ValueError, match=f"pass a PIL picture.*type {type(value).__name__}"):
        to_picture(value)


# Tensors


@pytest.mark.parametrize("shape", [(5, 7, 3), (1, 5, 7, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_a_comfyui_image_is_read_rightly(shape, dtype):
    image = (torch.from_numpy(RNG_PIXELS).double() / 255).to(dtype).reshape(shape)
    np.testing.assert_array_equal(pixels_of(image), RNG_PIXELS)


def test_a_bfloat16_image_is_read_to_within_its_precision():
    image = (torch.from_numpy(RNG_PIXELS) / 255).bfloat16()
    difference = pixels_of(image).astype(int) - RNG_PIXELS.astype(int)
    assert np.abs(difference).max() <= 1


def test_an_hdr_image_is_clamped():
    image = torch.tensor([-3.0, 0.0, 1.0, 50.0]).reshape(1, 1, 4, 1)
    np.testing.assert_array_equal(pixels_of(image), grey(0, 0, 255, 255))


def test_an_image_with_alpha_is_laid_on_white():
    image = torch.tensor([0.0, 0.0, 0.0, 0.2]).reshape(1, 1, 1, 4)
    np.testing.assert_array_equal(pixels_of(image), grey(204))


def test_an_image_that_needs_gradients_is_read():
    image = torch.zeros(1, 2, 2, 3, requires_grad=True)
    assert pixels_of(image).max() == 0


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(4, 5, 7, 3), r"pass the pictures one by one, as picture\[i\].*batch of 4"),
        (torch.zeros(3, 5, 7), r"arrange the picture as .*in ComfyUI: its shape is \(3, 5, 7\)"),
        (torch.zeros(1, 3, 5, 7), r"arrange the picture as .*\(3, 5, 7\)"),
        (torch.zeros(5, 7), r"arrange the picture as .*\(5, 7\)"),
        (torch.zeros(0, 5, 7, 3), r"arrange the picture as .*\(0, 5, 7, 3\)"),
        (torch.zeros(1, 0, 7, 3), "pass a picture that has pixels"),
        (torch.full((1, 2, 2, 3), torch.nan), "fix the picture"),
        (torch.full((1, 2, 2, 3), torch.inf), "fix the picture"),
        (torch.zeros(2, 2, 3, dtype=torch.int64), "convert the picture to uint8.*int64"),
    ],
)
def test_a_tensor_that_is_no_image_is_refused_with_the_remedy(image, message):
    with pytest.raises(ValueError, match=message):
        to_picture(image)


def test_a_picture_becomes_a_comfyui_image():
    image = to_tensor(Image.fromarray(RNG_PIXELS))
    assert image.shape == (1, 5, 7, 3)
    assert image.dtype == torch.float32
    np.testing.assert_allclose(image[0].numpy(), RNG_PIXELS / 255, rtol=1e-6)


def test_a_picture_survives_the_way_through_a_tensor():
    every_value = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB")
    np.testing.assert_array_equal(pixels_of(to_tensor(every_value)), np.asarray(every_value))


# Files


@pytest.mark.parametrize("as_text", [True, False])
def test_a_picture_file_is_read(tmp_path, as_text):
    path = tmp_path / "cat.png"
    Image.fromarray(RNG_PIXELS).save(path)
    picture = read_picture(str(path) if as_text else path)
    np.testing.assert_array_equal(np.asarray(picture), RNG_PIXELS)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"check the path: there is no file .*missing\.png"):
        read_picture(tmp_path / "missing.png")


def test_a_folder_is_no_picture(tmp_path):
    with pytest.raises(ValueError, match="check the path: there is no file"):
        read_picture(tmp_path)


def test_a_file_that_is_no_picture_is_named(tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("not a picture")
    with pytest.raises(ValueError, match=r"choose a picture file .*notes\.png"):
        read_picture(path)


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "webp", "bmp", "tiff"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_truncated_file_is_named(tmp_path, kind, kept):
    path = tmp_path / f"cut.{kind}"
    noise = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(ValueError, match=rf"cut\.{kind}"):
        read_picture(path)


def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    Image.fromarray(RNG_PIXELS).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match=r"make .*large\.png' smaller"):
        read_picture(path)


@pytest.mark.parametrize(
    ("kind", "content"),
    [("ppm", b"P6 x 4 255\n" + bytes(48)), ("dds", b"DDS |\0\0\0" + bytes(120)),
     ("ppm", b"P6 4 4 99999999\n" + bytes(48))],
)  # fmt: skip
def test_whatever_a_decoder_raises_the_file_is_named(tmp_path, kind, content):
    path = tmp_path / f"damaged.{kind}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^save the picture again: .*damaged\."):
        read_picture(path)


@pytest.mark.parametrize("error", [RuntimeError("AVIF decoder failed"), ValueError("bad header")])
def test_a_decoders_error_without_a_type_of_its_own_is_a_damaged_file(tmp_path, monkeypatch, error):
    def load(self):
        raise error

    Image.new("RGB", (4, 4)).save(tmp_path / "picture.bmp")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(ValueError, match=r"^save the picture again: .*picture\.bmp"):
        read_picture(tmp_path / "picture.bmp")


def test_a_damaged_png_block_is_named(tmp_path):
    path = tmp_path / "damaged.png"
    information = PngImagePlugin.PngInfo()
    information.add_text("title", "cat")
    Image.fromarray(RNG_PIXELS).save(path, pnginfo=information)
    path.write_bytes(path.read_bytes().replace(b"IDAT", b"ID\xffT"))
    with pytest.raises(ValueError, match=r"damaged\.png"):
        read_picture(path)


# Masks

MASK = np.array([[0.0, 0.2, 1.0], [0.4, 0.0, 0.6]], dtype=np.float32)
SIZE = (3, 2)


@pytest.mark.parametrize(
    "mask",
    [
        torch.from_numpy(MASK),
        torch.from_numpy(MASK)[None],
        torch.from_numpy(MASK).double(),
        MASK,
        MASK[None],
        (MASK * 255).round().astype(np.uint8),
        (MASK * 65535).round().astype(np.uint16),
        Image.fromarray((MASK * 255).round().astype(np.uint8)),
        Image.fromarray((MASK * 255).round().astype(np.uint8)).convert("RGB"),
    ],
    ids=["HW", "1HW", "float64", "NumPy", "NumPy 1HW", "uint8", "uint16", "L", "RGB"],
)
def test_every_form_of_mask_gives_the_same_values(mask):
    result = to_mask(mask, SIZE)
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy(), MASK, atol=1e-6)


@pytest.mark.parametrize(
    "mask",
    [
        torch.tensor([[True, False]]),
        np.array([[True, False]]),
        torch.tensor([[255, 0]], dtype=torch.uint8),
        Image.fromarray(np.array([[True, False]])),
    ],
)
def test_a_mask_of_two_values_is_one_and_zero(mask):
    assert to_mask(mask, (2, 1)).tolist() == [[1.0, 0.0]]


def test_a_masks_overshoot_is_clamped():
    assert to_mask(torch.tensor([[-1.0, 3.0]]), (2, 1)).tolist() == [[0.0, 1.0]]


def test_the_mask_is_a_copy():
    original = torch.from_numpy(MASK.copy())
    to_mask(original, SIZE).zero_()
    np.testing.assert_array_equal(original.numpy(), MASK)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            torch.zeros(64, 64),
            "resize the mask, or leave it unconnected: it is 64x64 but the picture is 3x2",
        ),
        (torch.ones(3, 2), "it is 2x3 but the picture is 3x2"),
        (torch.zeros(2, 3), "paint something on the mask, or leave it unconnected: all 3x2 pixels"),
        (torch.full((2, 3), -1.0), "paint something on the mask"),
        (torch.full((2, 3), torch.nan), "fix the mask"),
        (torch.full((2, 3), torch.inf), "fix the mask"),
        (torch.ones(4, 2, 3), "pass the masks one by one: this is a batch of 4"),
        (torch.ones(1, 1, 2, 3), r"arrange the mask as \(height, width\).*\(1, 1, 2, 3\)"),
        (torch.ones(2, 3, dtype=torch.int64), "convert the mask to uint8.*int64"),
        (Image.new("RGBA", SIZE), r"pass one channel as the mask, such as mask.getchannel\('A'\)"),
        (None, "pass a MASK tensor.*type NoneType"),
    ],
)
def test_what_is_no_mask_is_refused_with_the_remedy(mask, message):
    with pytest.raises(ValueError, match=message):
        to_mask(mask, SIZE)
