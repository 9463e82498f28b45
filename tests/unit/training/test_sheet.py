from PIL import Image

from tuner.training.sheet import CELL_PX, Shot, contact_sheet


def shots(folder, prompts, steps):
    made = []
    for number, prompt in enumerate(prompts):
        for step in steps:
            path = folder / f"{number}-{step}.png"
            Image.new("RGB", (32, 32), (200, 10 * number, 0) if step else (0, 0, 200)).save(path)
            made.append(Shot(prompt, step, path))
    return made


def test_every_picture_is_on_the_sheet(tmp_path):
    sheet = contact_sheet(shots(tmp_path, ["a cat", "a dog", "a cow"], [0, 50]), "demo")
    colours = dict((colour, count) for count, colour in sheet.getcolors(1 << 20))
    assert colours[(0, 0, 200)] == 3 * CELL_PX**2
    for number in range(3):
        assert colours[(200, 10 * number, 0)] == CELL_PX**2


def test_many_steps_are_thinned_but_the_ends_stay(tmp_path):
    steps = list(range(0, 1000, 100))
    made = shots(tmp_path, ["a cat"], steps)
    for shot in made:
        Image.new("RGB", (8, 8), (shot.step // 4, 0, 0)).save(shot.path)
    colours = {colour for _, colour in contact_sheet(made, "demo").getcolors(1 << 20)}
    assert (0, 0, 0) in colours and (225, 0, 0) in colours
    assert sum((step // 4, 0, 0) in colours for step in steps) == 6


def test_a_lost_picture_leaves_its_place_empty(tmp_path):
    made = shots(tmp_path, ["a cat"], [0, 50])
    made[1].path.unlink()
    assert (0, 0, 200) in {colour for _, colour in contact_sheet(made, "demo").getcolors(1 << 20)}
