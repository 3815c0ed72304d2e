"""What one fixed filter of the image explains: P x = W_1 W_1^T x."""

from pipeline.claims.contrasts import by_rule, each_rule, gaps, third
from pipeline.claims.evidence import Part, alike, at_least, at_most, mean
from pipeline.claims.registry import Tables, claim
from pipeline.measures.tables import Table, where


@claim("filter-explains", "filter_trained")
def filter_explains(tables: Tables) -> list[Part]:
    found = []
    for rule, table in by_rule(tables["filter_trained"]):
        more = table.assign(more=table["cos_px"] - table["alignment"])
        found.append(mean(f"{rule}, P x - x", more, "more", at_least(0.1)))
        found.append(mean(f"{rule}, P of another image", table, "cos_px_other", alike()))
    return found


@claim("filter-gap", "filter_random", "filter_trained")
def filter_gap(tables: Tables) -> list[Part]:
    """The gap of cos(R, P x) less half the gap of the alignment."""

    def halved(table: Table) -> Table:
        return table.assign(gap=table["cos_px"] - table["alignment"] / 2)

    return gaps(halved(tables["filter_random"]), halved(tables["filter_trained"]), "gap", at_most(0.0))


@claim("filter-carries", "all_but_first", "only_first")
def filter_carries(tables: Tables) -> list[Part]:
    return gaps(tables["all_but_first"], tables["only_first"], "similarity", at_least(0.2))


@claim("residual-class", "filter_trained")
def residual_is_no_class(tables: Tables) -> list[Part]:
    return each_rule(tables["filter_trained"], "residual_runner_up", at_least(0.8))


def above_the_bottom_third(table: Table) -> Table:
    depth = table["layer"].max() + 1
    return table[(table["layer"] > third(depth)) & (table["start"] == "activation")]


@claim("start-free", "memory")
def starts_do_not_matter(tables: Tables) -> list[Part]:
    table = above_the_bottom_third(tables["memory"])
    return [
        mean(f"{rule}, {name}, {against}", where(at, against=against), "cosine", at_least(0.95))
        for rule, part in by_rule(table)
        for name, at in part.groupby("name", sort=False)
        for against in ("noise", "other")
    ]


@claim("noise-as-good", "memory")
def noise_is_as_good(tables: Tables) -> list[Part]:
    table = where(above_the_bottom_third(tables["memory"]), against="noise")
    table = table.assign(more=table["alignment"] - table["alignment_against"])
    return [
        mean(f"{rule}, {name}", at, "more", at_most(0.02))
        for rule, part in by_rule(table)
        for name, at in part.groupby("name", sort=False)
    ]
