"""Which weights of a checkpoint are taken: averages before raw ones, under every usual name, or a question."""

from __future__ import annotations

import collections

import pytest
import torch

from svgbench.errors import BadWeights
from svgbench.weights import files as weights

NAMES = ("x_embedder.proj.weight", "t_embedder.mlp.0.weight", "blocks.0.adaLN_modulation.1.weight", "blocks.1.attn.qkv.bias", "pos_embed")


def network(value, names=NAMES):
    """A state dict with a SiT's names, every number the same."""
    return {name: torch.full((2, 3), float(value)) for name in names}


RAW, EMA, OTHER = network(1), network(2), network(3)


def under(prefix, state):
    return {prefix + name: value for name, value in state.items()}


@pytest.fixture
def taken(tmp_path):
    """Reads a checkpoint and gives its state."""

    def read(content, key=None):
        torch.save(content, tmp_path / "checkpoint.pt")
        return weights.read(tmp_path / "checkpoint.pt", key)

    return read


def same(found, wanted):
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


LIT_EMA = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7),
           **under("model_ema.", {name.replace(".", ""): value for name, value in EMA.items()})}  # fmt: skip
FORMS = {
    "EMA in capitals": ({"model": RAW, "EMA": EMA}, "EMA"),
    "net_ema": ({"net": RAW, "net_ema": EMA}, "net_ema"),
    "BasicSR": ({"params": RAW, "params_ema": EMA}, "params_ema"),
    "averaged_model": ({"model": RAW, "averaged_model": EMA}, "averaged_model"),
    "stochastic weight averaging": ({"model_state_dict": RAW, "swa_model": {"n_averaged": torch.tensor(3), **under("module.", EMA)}},
                                    "swa_model"),
    "ema_1 alone": ({"model": RAW, "ema_1": EMA}, "ema_1"),
    "nested": ({"state": {"model": RAW, "ema": {"module": EMA}}, "epoch": 2}, "state.ema.module"),
    "shadow beside names": ({"model": under("module.", RAW), "ema": {"decay": 0.99, "num_updates": 3, "shadow": EMA}}, "ema.shadow"),
    "ema-pytorch in Lightning": (
        {"state_dict": {**under("model.", RAW), **under("ema.online_model.", RAW), **under("ema.ema_model.", EMA),
                        "ema.initted": torch.tensor(True), "ema.step": torch.tensor(3)}},
        "state_dict.ema.ema_model",
    ),
    "Karras EMA, one": ({**under("model.", RAW), **under("ema_models.0.ema_model.", EMA)}, "ema_models.0.ema_model"),
    "Lightning flat": ({"state_dict": {**under("net.", RAW), **under("ema_net.", EMA), "loss.discriminator.weight": torch.ones(2)}},
                       "state_dict.ema_net"),
    "Lightning callback": ({"state_dict": under("model.", RAW), "callbacks": {"EMACallback{'decay': 0.99}": {"ema_state_dict": EMA}}},
                           "callbacks.EMACallback{'decay': 0.99}.ema_state_dict"),
    "Lightning WeightAveraging": ({"state_dict": EMA, "current_model_state": RAW, "averaging_state": {"n_averaged": torch.tensor(4)}},
                                  "state_dict"),
    "LDM's LitEma": ({"state_dict": {**under("model.", RAW), **LIT_EMA}},
                     "state_dict.model_ema"),
    "LitEma of the whole module": ({"state_dict": {**RAW, **LIT_EMA}},
                                   "state_dict.model_ema"),
    "DINO": ({"student": under("module.backbone.", RAW), "teacher": under("backbone.", EMA), "epoch": 1}, "teacher"),
    "DINO in one state dict": (
        {"model": {**under("student.backbone.", RAW), **under("teacher.backbone.", EMA), "teacher.dino_head.mlp.0.weight": torch.ones(2, 2),
                   "student.dino_head.mlp.0.weight": torch.ones(2, 2)}},
        "model.teacher",
    ),
    "DeepSpeed's module": ({"module": RAW, "ema": under("module.", EMA), "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}, "ema"),
    "half precision": ({"model": RAW, "model_ema": {name: value.half() for name, value in EMA.items()}}, "model_ema"),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_an_average_is_taken_before_the_raw_weights_and_said(taken, capsys, form):
    content, key = FORMS[form]
    found = taken(content)
    assert found.key == key
    assert same({name: value.float() for name, value in found.items()}, EMA)
    said = capsys.readouterr().err
    assert f"'{key}'" in said and "--weights-key changes it" in said and said.count("\n") == 1


@pytest.mark.parametrize("form", [form for form in FORMS if "Averaging" not in form])
def test_every_other_set_of_weights_can_be_asked_for(taken, form):
    content, key = FORMS[form]
    with pytest.raises(BadWeights, match="contains no weights under 'nothing'") as error:
        taken(content, "nothing")
    known = str(error.value).partition("Known: ")[2].removesuffix(".").split(", ")
    assert key in known or "callbacks" in key
    assert same({name: value.float() for name, value in taken(content, key).items()}, EMA)


@pytest.mark.parametrize("key", ["model", "state.model"])
def test_a_key_is_a_whole_path_or_its_end(taken, key):
    assert same(taken({"state": {"model": RAW, "ema": EMA}}, key), RAW)


def test_an_average_without_frozen_tensors_gets_them_from_the_raw_weights(taken, capsys):
    shadow = {name: value for name, value in EMA.items() if name != "pos_embed"}
    found = taken({"model": RAW, "ema": {"shadow": shadow}})
    assert same(found, {**EMA, "pos_embed": RAW["pos_embed"]})
    assert "from 'model' the 1 tensors that the average leaves out (pos_embed)" in capsys.readouterr().err


QUESTIONS = {
    "two decays": {"model": RAW, "ema1": EMA, "ema2": OTHER},
    "two decays, numbered": {"model": RAW, "ema": {"0.99": EMA, "0.9999": OTHER}},
    "Karras": {"model": RAW, "ema": {"stds": [0.05, 0.1], "emas": [EMA, OTHER]}},
    "post-hoc, flat": {**under("model.", RAW), **under("ema_models.0.ema_model.", EMA), **under("ema_models.1.ema_model.", OTHER)},
    "unknown names": {"first": RAW, "second": EMA},
    "two usual names": {"model": RAW, "state_dict": OTHER},
    "another network of the same names": {"model": RAW, "smoothed": EMA, "epoch": 1},
    "a target network": {"state_dict": RAW, "target_network": under("module.", EMA)},
    "a teacher of something else": {"model": RAW, "teacher": EMA},
    "an average of another network": {"model": RAW, "vae_ema": {"encoder.weight": torch.ones(3, 3), "decoder.weight": torch.ones(3, 3)}},
}


@pytest.mark.parametrize("form", QUESTIONS)
def test_what_no_rule_orders_is_a_question(taken, form):
    with pytest.raises(BadWeights, match="sets of weights and no rule selects one; choose by --weights-key") as error:
        taken(QUESTIONS[form])
    assert "weights_key in Python" in str(error.value)


@pytest.mark.parametrize(
    "average",
    [
        {"ema": {"decay": 0.99, "shadow_params": [torch.ones(2), torch.ones(3)]}},
        {"optimizer_states": [{"optimizer": {"state": {}}, "ema": (torch.ones(2), torch.ones(3))}]},
    ],
)
def test_an_average_without_names_is_refused_and_the_raw_weights_can_be_asked_for(taken, average):
    with pytest.raises(BadWeights, match=r"cannot be read, .* is a list of 2 tensors without names.*--weights-key.*'model'"):
        taken({"model": RAW, **average})
    assert same(taken({"model": RAW, **average}, "model"), RAW)


def test_a_part_of_a_network_may_be_called_an_average(taken):
    state = {"encoder.conv.weight": torch.ones(3, 3), "encoder.conv.bias": torch.ones(3), "ema.codes": torch.ones(4, 2)}
    assert same(taken({"state_dict": state}), state)


@pytest.mark.parametrize("word", ["swa_head", "ema", "average", "teacher", "target_encoder", "momentum_encoder"])
def test_a_part_called_an_average_may_end_in_the_names_of_others(taken, word):
    state = {**under("trunk.fc.", {"weight": torch.ones(4, 3), "bias": torch.ones(4)}), f"{word}.weight": torch.ones(7, 7)}
    assert same(taken(state), state)


def test_a_second_name_of_an_averaged_tensor_is_averaged_too(taken, capsys):
    found = taken({"model": {**RAW, "head.weight": RAW["pos_embed"]}, "ema": EMA})
    assert same(found, {**EMA, "head.weight": EMA["pos_embed"]})
    assert "leaves out" not in capsys.readouterr().err


@pytest.mark.parametrize("key", ["momentum_encoder", "state_dict.momentum_encoder"])
def test_a_key_may_name_one_network_of_several_in_a_state_dict(taken, key):
    state = {**under("encoder.", RAW), **under("momentum_encoder.", EMA), "queue": torch.ones(4, 4)}
    assert same(taken({"state_dict": state}, key), EMA)


def test_a_key_where_there_is_nothing_to_choose_is_refused(taken):
    with pytest.raises(BadWeights, match="contains a single state dict and nothing under 'ema'; leave --weights-key out"):
        taken(RAW, "ema")


class Ema:
    """An average as an object."""

    def __init__(self, shadow):
        self.decay, self.shadow = 0.99, shadow


def test_an_average_inside_an_object_is_not_passed_over(taken):
    with pytest.raises(BadWeights, match=r"'ema' is an object \(.*Ema\); give a file .* 'model'"):
        taken({"model": RAW, "ema": Ema(EMA)})
    assert same(taken({"model": RAW, "ema": Ema(None)}), RAW)  # settings alone
    assert same(taken({"model": RAW, "ema": Ema(EMA)}, "model"), RAW)


def test_a_checkpoint_that_holds_itself_is_read_or_refused_at_once(taken):
    content = {"model": RAW}
    content |= {f"part {number}": content for number in range(40)}
    with pytest.raises(BadWeights, match=r"more than 20,000 nested mappings"):
        taken(content)
    laughs = Ema(None)
    for _ in range(30):
        laughs.shadow, laughs = [[laughs] * 40] * 40, Ema([laughs] * 40)
    assert same(taken({"model": RAW, "ema": laughs}), RAW)


def test_one_state_dict_under_two_keys_is_one(taken):
    assert same(taken({"model": RAW, "state_dict": RAW}), RAW)


def test_what_stands_beside_one_usual_state_dict_is_not_asked_about(taken):
    content = {"model": RAW, "discriminator": {"weight": torch.ones(3, 3)}, "class_weights": torch.ones(4), "step": torch.tensor(3)}
    assert same(taken(content), RAW)


PREFIXES = {
    "fsdp": under("_fsdp_wrapped_module.", {n.replace("blocks.0.", "blocks.0._fsdp_wrapped_module.") : v for n, v in RAW.items()}),
    "checkpointed blocks": {n.replace("blocks.1.", "blocks.1._checkpoint_wrapped_module.module.").replace("module.module.", "module.")
                            .replace("wrapped_module.module.", "wrapped_module.") if "1." in n else n: v for n, v in RAW.items()},
    "compiled in ranks": under("module._orig_mod.module.", RAW),
    "one compiled part": {n.replace("t_embedder.", "t_embedder._orig_mod."): v for n, v in RAW.items()},
    "Lightning, compiled": {"state_dict": {**under("model._orig_mod.", RAW), "loss.logvar": torch.ones(3), "fid.real": torch.ones(2, 2)}},
    "a network among others": {"state_dict": {**under("net.model.", RAW), **under("text.", {"weight": torch.ones(2, 2)})}},
    "transport": {"model": under("module.transformer.", RAW)},
}  # fmt: skip


@pytest.mark.parametrize("form", PREFIXES)
def test_words_of_wrappers_are_taken_off_the_names(taken, form):
    assert same(taken(PREFIXES[form]), RAW)


def test_a_name_with_and_without_a_wrapper_s_word_is_refused(taken):
    with pytest.raises(BadWeights, match=r"holds _orig_mod\.pos_embed twice"):
        taken({**RAW, "_orig_mod.pos_embed": torch.ones(1)})
    with pytest.raises(BadWeights, match="twice, once with a wrapper's prefix"):
        taken({"_orig_mod.weight": torch.ones(2), "_fsdp_wrapped_module.weight": torch.ones(2)})


@pytest.mark.parametrize("word", ["module.", "model.", "_orig_mod.", "ema.", "blocks.0.0."])
def test_a_name_of_a_thousand_words_is_read(taken, word):
    assert len(taken({word * 2000 + "weight": torch.ones(2, 3)})) == 1


@pytest.mark.parametrize("place", [lambda c, n: (c, n), lambda c, n: (c, n - 2 * c)])
def test_blocks_in_chunks_are_numbered_in_one_row(taken, place):
    """DINOv2 numbers blocks through all chunks; a row that begins again in each is understood too."""
    whole = ["cls_token", "pos_embed", "mask_token", *(f"blocks.{n}.{part}" for n in range(4) for part in ("ls1.gamma", "attn.qkv.weight"))]
    state = {name: torch.full((1, 2), float(count)) for count, name in enumerate(whole)}
    chunked = {}
    for name, value in state.items():
        if name.startswith("blocks."):
            number, rest = int(name.split(".")[1]), name.split(".", 2)[2]
            chunk, inner = place(number // 2, number)
            name = f"blocks.{chunk}.{inner}.{rest}"
        chunked[name] = value
    head = {"dino_head.last_layer.weight": torch.ones(2, 2), "ibot_head.mlp.0.weight": torch.ones(2, 2)}
    assert same(taken({"teacher": {**under("backbone.", chunked), **head}, "iteration": 9}), state)


def test_a_mapping_of_another_class_is_a_mapping(taken):
    assert same(taken({"state_dict": collections.OrderedDict(RAW)}), RAW)
    assert same(taken(collections.defaultdict(dict, model=RAW)), RAW)


@pytest.mark.parametrize("content", [torch.nn.Linear(2, 2), {"model": torch.nn.Linear(2, 2)}])
def test_a_whole_pickled_module_is_refused_by_its_class(taken, content):
    with pytest.raises(BadWeights, match=r"torch\.nn\.modules\.linear\.Linear.*save only (its|a) state dict"):
        taken(content)
