"""Fig. 1: the two sums of its plane."""

import torch
from matplotlib.text import Text

from pipeline.experiments import geometry
from pipeline.figures import fig1, style

PLANE = geometry.Options(neurons=8, seed=1021, x_angle=65.0, draws=200)


def test_the_two_sums_are_the_gradient():
    table = geometry.run(PLANE)[0].table
    vectors = table.set_index(["kind", "name"])[["u", "v"]]
    w = torch.tensor(vectors.loc["weight"].to_numpy())
    r = torch.tensor(table[table["kind"] == "weight"]["r"].to_numpy())
    x = torch.tensor(vectors.loc[("input", "x")].to_numpy(), requires_grad=True)
    (gradient,) = torch.autograd.grad(r @ (w @ x).relu(), x)
    sums = {name: torch.tensor(vectors.loc[("sum", name)].to_numpy()) for name in ("R_+", "R_-", "R", "NFR")}
    torch.testing.assert_close(sums["R_+"] + sums["R_-"], gradient)
    torch.testing.assert_close(sums["R"], gradient)
    torch.testing.assert_close(sums["NFR"], sums["R_+"])
    torch.testing.assert_close(torch.tensor(vectors.loc["contribution"].to_numpy()).sum(0), gradient)
    nfr_row = table[table["name"] == "NFR"].iloc[0]
    assert nfr_row["alignment"] > table[table["name"] == "R"].iloc[0]["alignment"] and 0.8 < nfr_row["better"] < 1


def test_fig1_draws_its_table_with_texts_apart():
    tables = {"plane": geometry.run(PLANE)[0].table}
    style.use_style()
    figure = fig1.draw(fig1.numbers(tables), fig1.caption(tables, "demo"))
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in figure.findobj(Text) if t.get_text().strip()]
    for i, (a, p) in enumerate(boxes):
        assert p.x0 > -1 and p.y0 > -1 and p.x1 < figure.bbox.width + 1 and p.y1 < figure.bbox.height + 1, a
        for b, q in boxes[:i]:
            assert not (min(p.x1, q.x1) - max(p.x0, q.x0) > 1 and min(p.y1, q.y1) - max(p.y0, q.y0) > 1), (a, b)
    style.close(figure)
