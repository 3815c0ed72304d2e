"""The three perplexing behaviours (Section III-C), maps against maps."""

from pipeline.claims.contrasts import RULES, by_rule, each_rule, gaps, minus
from pipeline.claims.evidence import Part, Range, at_least, at_most, crossed_share, mean
from pipeline.claims.registry import Tables, claim
from pipeline.measures.tables import Table, where

PART = 64  # images that are computed together, among which a map looks for its own
PAIRS = (("gbp", "rectgrad"), ("gbp", "lrp"), ("rectgrad", "lrp"))


def compared(table: Table, against: str, value: str = "cosine") -> Table:
    """A row per image, seed and rule."""
    return where(table, against=against)[["image", "seed", "rule", value]]


@claim("rules-insensitive", "top")
def rules_are_insensitive(tables: Tables) -> list[Part]:
    return each_rule(compared(tables["top"], "original"), "cosine", at_least(0.8))


@claim("gradient-sensitive", "top")
def gradient_is_sensitive(tables: Tables) -> list[Part]:
    table = compared(tables["top"], "original")
    gradient = where(table, rule="grad")
    return [mean(rule, minus(part, gradient, "cosine"), "cosine", at_least(0.2)) for rule, part in by_rule(table)]


@claim("decision-changes", "top")
def decisions_change(tables: Tables) -> list[Part]:
    table = where(tables["top"], against="original", rule="grad")
    return [crossed_share("changed decisions", table, "decision_changes", at_least(0.8))]


@claim("insensitive-single", "single")
def single_layers_do_not_matter(tables: Tables) -> list[Part]:
    table = where(tables["single"], against="original")
    return [
        mean(f"{rule}, layer {int(layer)}", part, "cosine", at_least(0.8))
        for layer, at in table.groupby("weights.depth")
        for rule, part in by_rule(at)
    ]


@claim("insensitive-bottom", "bottom")
def bottom_layers_do_not_matter(tables: Tables) -> list[Part]:
    return each_rule(compared(tables["bottom"], "original"), "cosine", at_least(0.8))


@claim("class-insensitive", "likeness_trained")
def classes_hardly_matter(tables: Tables) -> list[Part]:
    return each_rule(compared(tables["likeness_trained"], "runner_up"), "cosine", at_least(0.8))


def pairs(table: Table) -> list[Part]:
    return [
        mean(f"{first} and {second}", where(compared(table, second), rule=first), "cosine", at_least(0.5))
        for first, second in PAIRS
    ]


@claim("sim-random", "likeness_random")
def rules_are_alike_random(tables: Tables) -> list[Part]:
    return pairs(tables["likeness_random"])


@claim("sim-trained", "likeness_trained")
def rules_are_alike_trained(tables: Tables) -> list[Part]:
    return pairs(tables["likeness_trained"])


@claim("sim-bottom", "likeness_random", "likeness_trained", "bottom_random", "bottom_trained")
def the_bottom_step_sets_apart(tables: Tables) -> list[Part]:
    """DTD's map without its bottom step is LRP's."""
    found = []
    for state in ("random", "trained"):
        without, with_it = tables[f"likeness_{state}"], tables[f"bottom_{state}"]
        for first, second in (*PAIRS, ("gbp", "dtd"), ("rectgrad", "dtd")):
            plain = where(compared(without, "lrp" if second == "dtd" else second), rule=first)
            gap = minus(plain, where(compared(with_it, second), rule=first), "cosine")
            found.append(mean(f"{first} and {second}, {state}", gap, "cosine", at_least(0.05)))
    return found


@claim("specific", "specific_random", "specific_trained")
def maps_are_of_their_image(tables: Tables) -> list[Part]:
    """Images are compared with those of their part, of 64 at most."""
    found = []
    for state in ("random", "trained"):
        for rule, table in by_rule(tables[f"specific_{state}"]):
            among = min(table["image"].nunique(), PART)
            first = (table["rank"] == 1).astype(float).where(table["rank"].notna())
            more = table.assign(more=table["alignment"] - table["others"], first=first)
            found += [
                mean(f"{rule}, {state}, own - others", more, "more", at_least(0.1)),
                crossed_share(f"{rule}, {state}, own ahead", more, "ahead", at_least(0.95), of=among - 1),
                crossed_share(f"{rule}, {state}, found first of {among}", more, "first", Range()),
            ]
    return found


@claim("neg-info", "specific_trained")
def negative_scores_are_input(tables: Tables) -> list[Part]:
    table = where(tables["specific_trained"], rule="gbp")
    more = table.assign(more=table["negative"] - table["negative_shuffled"])
    return [mean("gbp", more, "more", at_least(0.05))]


@claim("edge-focus", "likeness_random", "likeness_trained")
def trained_maps_show_edges(tables: Tables) -> list[Part]:
    random, trained = (compared(tables[f"likeness_{state}"], "edges", "spearman") for state in ("random", "trained"))
    return gaps(trained, random, "spearman", at_least(0.05))


@claim("edge-like", "likeness_trained", "nulls")
def edges_look_like_a_map(tables: Tables) -> list[Part]:
    noise = where(tables["nulls"], null="noise").assign(seed=0).rename(columns={"spearman_edges": "spearman"})
    edges = compared(tables["likeness_trained"], "edges", "spearman")
    return [mean(rule, minus(part, noise, "spearman"), "spearman", at_least(0.3)) for rule, part in by_rule(edges)]


@claim("rank1-lrp", "rank1")
def z_plus_forgets_its_start(tables: Tables) -> list[Part]:
    return [mean("lrp", first_layer(tables, "lrp"), "cosine", at_least(0.99))]


@claim("rank1-other", "rank1")
def others_need_not(tables: Tables) -> list[Part]:
    return [mean(rule, first_layer(tables, rule), "cosine", at_most(0.95)) for rule in RULES if rule != "lrp"]


def first_layer(tables: Tables, rule: str) -> Table:
    """r_1 of the decision and of the runner-up."""
    return where(tables["rank1"], rule=rule, layer=1, against="runner_up")


@claim("gamma", "gamma")
def gamma_does_not_matter(tables: Tables) -> list[Part]:
    return [mean("lrp", where(tables["gamma"], against="wplus"), "cosine", at_least(0.95))]


def cheaper(tables: Tables, value: str, order: str, target: Range, sign: int = 1) -> list[Part]:
    """How far a number of another order of pixels is above that of the rule's (sign -1: below), on deletion."""
    table, found = where(tables["occlusion"], direction="deletion"), []
    for rule, part in by_rule(table):
        gap = minus(where(part, order=order), where(part, order="attribution"), value)
        found.append(mean(rule, gap.assign(**{value: sign * gap[value]}), value, target))
    return found


@claim("occlude-random", "occlusion")
def deleting_scores_hurts(tables: Tables) -> list[Part]:
    return cheaper(tables, "auc_normalised", "random", at_least(0.05))


@claim("occlude-edge", "occlusion")
def more_than_deleting_edges(tables: Tables) -> list[Part]:
    return cheaper(tables, "auc_normalised", "edges", at_least(0.02))


@claim("occlude-units", "occlusion")
def high_scores_feed_many_units(tables: Tables) -> list[Part]:
    return cheaper(tables, "units_off", "random", at_least(0.02), sign=-1)
