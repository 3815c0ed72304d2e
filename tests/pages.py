"""What a reader of a printed figure would see at once."""

from matplotlib.figure import Figure
from matplotlib.text import Text


def check_texts(figure: Figure) -> None:
    """All texts lie inside the page, and none over another."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    width, height = figure.canvas.get_width_height()
    texts = [t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible()]
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        low, high = sorted(axis.get_view_interval())
        outside = [tick for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]
        texts = [
            t for t in texts if t not in [label for tick in outside for label in (tick.label1, tick.label2)]
        ]  # these are not drawn
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in texts]
    for text, box in boxes:
        assert box.x0 > -1 and box.x1 < width + 1 and box.y0 > -1 and box.y1 < height + 1, text
    for i, (a, p) in enumerate(boxes):
        for b, q in boxes[:i]:
            overlap = min(p.x1, q.x1) - max(p.x0, q.x0) > 1 and min(p.y1, q.y1) - max(p.y0, q.y0) > 1
            assert not overlap, (a, b)
