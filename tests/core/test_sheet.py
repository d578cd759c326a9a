"""What the pictures for people show."""

import pytest
import torch
from story_identity.core.layout import Layout
from story_identity.core.sheet import colour_of, contact_sheet, draw_layout, draw_maps


def test_a_sheet_has_every_picture_in_its_place():
    images = [torch.full((20, 40, 3), value / 10) for value in range(1, 6)]
    sheet = contact_sheet(images, [""] * 5, columns=2, cell_width=40)
    assert sheet.shape == (3 * 20 + 4 * 16, 2 * 40 + 3 * 16, 3)
    for index, image in enumerate(images):
        row, column = divmod(index, 2)
        top, left = 16 + row * 36, 16 + column * 56
        assert torch.allclose(sheet[top : top + 20, left : left + 40], image, atol=1 / 255)
    assert (sheet[16 + 2 * 36 :, 72:] == 1).all()  # the sixth place is empty


def test_captions_take_room_and_ink():
    image = torch.zeros(20, 200, 3)
    plain = contact_sheet([image], [""], 4, 200)
    written = contact_sheet([image], ["a caption that is long enough to need more than one line of the cell"], 4, 200)
    assert written.shape[0] > plain.shape[0] + 20
    assert (written[40:] < 0.5).any()


def test_pictures_may_be_made_one_after_the_other():
    images = [torch.full((20, 30, 3), level / 4) for level in range(4)]
    made = contact_sheet((image for image in images), ["a", "b", "c", ""], 2, 40)
    assert torch.equal(made, contact_sheet(images, ["a", "b", "c", ""], 2, 40))


def test_sheets_of_nothing_are_refused():
    with pytest.raises(ValueError, match="no pictures"):
        contact_sheet([], [], 4, 100)
    with pytest.raises(ValueError, match="at least 1 column"):
        contact_sheet([torch.zeros(8, 8, 3)], [""], 0, 100)


def test_a_layout_is_tinted_inside_the_mask_only():
    mask = torch.zeros(2, 200, 200, dtype=torch.bool)
    mask[0, 60:140, 60:140] = True
    image = torch.full((200, 200, 3), 0.4)
    drawn = draw_layout(image, Layout(("Mira", "Ben"), mask))
    colour = torch.tensor(colour_of(0)) / 255
    assert torch.allclose(drawn[120, 120], 0.2 + colour / 2, atol=2 / 255)
    assert torch.allclose(drawn[20, 20], image[20, 20], atol=1 / 255)
    assert (drawn[180:, :60] > 0.9).any()  # "not found: Ben"


def test_a_layout_of_another_size_is_refused():
    layout = Layout(("Mira",), torch.zeros(1, 64, 32, dtype=torch.bool), "frame 2")
    with pytest.raises(ValueError, match="frame 2: the picture is 20x10, but the layout is 32x64"):
        draw_layout(torch.zeros(10, 20, 3), layout)


def test_maps_glow_in_their_colours_over_the_darkened_picture():
    heat = torch.zeros(2, 200, 200)
    heat[0, 100:, :100], heat[0, 150, 50] = 0.5, 1.0
    drawn = draw_maps(torch.full((200, 200, 3), 0.8), heat, ("Mira", "Ben"))
    colour = torch.tensor(colour_of(0)) / 255
    assert torch.allclose(drawn[150, 20], 0.5 * (0.8 * 0.35 + colour), atol=2 / 255)
    assert torch.allclose(drawn[20, 20], torch.tensor(0.8 * 0.35), atol=2 / 255)  # Ben is not there, nor is his name
    assert (drawn[180:, 50:90] == 0).any()  # the plate with Mira's name


def test_neighbouring_colours_differ():
    colours = [torch.tensor(colour_of(index)).float() for index in range(6)]
    assert all((a - b).abs().max() > 80 for a, b in zip(colours, colours[1:], strict=False))
