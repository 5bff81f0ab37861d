"""A teacher's losses against their formulas, and the part that it has in a step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny
from helpers import teacher_files
from unitok_jax.models.pretrained.teachers import KINDS
from unitok_jax.tokenizer import losses
from unitok_jax.tokenizer.step import TokenizerSteps
from unitok_jax.tokenizer.teaching import HEADS, Teaching
from unitok_jax.weights import pretrained

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def small(monkeypatch):
    teacher_files.install(monkeypatch)


def configuration(kind="small_clip", token=1.0, relation=0.0, **teacher):
    config = tiny.get_config()
    config.model.size, config.model.quant_heads = "nano", 2
    config.model.text.vocab_size, config.model.text.context_length = 64, 8
    config.data.image_size = (48, 48)
    config.loss.update(teacher_token=token, teacher_relation=relation)
    config.teacher.update(kind=kind, **teacher)
    return config


def teaching(**changes):
    config = configuration(**changes)
    sizes = dict(size=config.model.size, dtype="float32", stream="float32")
    return Teaching(config.teacher, config.loss, **sizes)


def batches(micro=1, size=2):
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.uniform(-1, 1, (micro, size, 48, 48, 3)), jnp.float32),
        "text": jnp.asarray(rng.integers(1, 63, (micro, size, 8)), jnp.int32),
    }


class TestFormulas:
    def test_of_tokens(self):
        rng = np.random.default_rng(0)
        ours, theirs = rng.standard_normal((2, 3, 4, 5))
        cosines = [
            a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
            for a, b in zip(ours.reshape(-1, 5), theirs.reshape(-1, 5), strict=True)
        ]
        expected = np.mean(1 - np.array(cosines)) + np.square(ours - theirs).sum() / ours.size
        found = losses.token_loss(jnp.float32(ours), jnp.float32(theirs))
        assert float(found) == pytest.approx(expected, rel=1e-5)

    def test_of_tokens_that_agree_or_are_zero(self):
        ones = jnp.ones((1, 2, 4))
        assert float(losses.token_loss(ones, ones)) == pytest.approx(0, abs=1e-6)
        gradient = jax.grad(losses.token_loss)(0 * ones, ones)
        assert np.isfinite(gradient).all()

    @pytest.mark.parametrize("temperature", [2.0, 0.5])
    def test_of_relations(self, temperature):
        rng = np.random.default_rng(0)
        image, text = rng.standard_normal((2, 6, 4))
        other_image, other_text = rng.standard_normal((2, 6, 3))
        expected = 0.0
        pairs = 3 * image @ text.T, other_image @ other_text.T
        for student, teacher in (pairs, (pairs[0].T, pairs[1].T)):
            for s, t in zip(student, teacher, strict=True):
                p, q = (np.exp(x / temperature) / np.exp(x / temperature).sum() for x in (t, s))
                expected += np.sum(p * np.log(p / q)) / 6 / 2
        arrays = (jnp.float32(x) for x in (image, text, 3, other_image, other_text))
        found = losses.relation_loss(*arrays, temperature=temperature)
        assert float(found) == pytest.approx(expected, rel=1e-4)

    def test_of_a_student_that_is_its_teacher(self):
        image, text = jax.random.normal(jax.random.key(0), (2, 5, 4))
        found = losses.relation_loss(image, text, 2.0, 2.0 * image, text, temperature=2.0)
        assert float(found) == pytest.approx(0, abs=1e-6)


class TestTargets:
    @pytest.mark.parametrize("kind", ["small_dinov2", "small_siglip2"])
    def test_one_for_every_token(self, kind):
        """Also of patches of 14 px, for which images of 48 px are resized to 42."""
        found = teaching(kind=kind, shallow=1)
        params = jax.tree.map(jnp.asarray, pretrained.stand_in(found.abstract))
        targets = jax.jit(found.targets)(params, batches())
        shapes = {name: target.shape for name, target in targets.items()}
        size = (1, 2, 9, teacher_files.WIDTH)
        assert shapes == {"teacher_deep": size, "teacher_shallow": size}
        np.testing.assert_allclose(targets["teacher_shallow"].mean(-1), 0, atol=1e-5)
        np.testing.assert_allclose(targets["teacher_shallow"].std(-1), 1, rtol=1e-3)

    def test_of_micro_batches_are_those_of_the_whole(self):
        found = teaching(relation=1.0)
        params = jax.tree.map(jnp.asarray, pretrained.stand_in(found.abstract))
        data = batches(2)
        whole = jax.tree.map(lambda x: x.reshape(1, -1, *x.shape[2:]), data)
        apart, together = (jax.jit(found.targets)(params, x) for x in (data, whole))
        assert together.keys() == {"teacher_deep", "teacher_image", "teacher_text"}
        for name, target in together.items():
            np.testing.assert_allclose(
                apart[name].reshape(target.shape), target, rtol=1e-4, atol=1e-5
            )

    def test_tokens_before_those_of_the_image_are_left_out(self):
        found = teaching()
        heads = found.init(jax.random.key(0), TokenizerSteps(configuration()).optimizer).params
        rng, width = np.random.default_rng(0), teacher_files.WIDTH
        tokens = jnp.asarray(rng.standard_normal((2, 9, 64)), jnp.float32)
        targets = {"teacher_deep": jnp.asarray(rng.standard_normal((2, 9, width)), jnp.float32)}
        registers = jnp.concatenate([jnp.full((2, 3, 64), 5.0), tokens], axis=1)
        alone, behind = (found.token_loss(heads, x, targets) for x in (tokens, registers))
        assert float(alone) == pytest.approx(float(behind), rel=1e-6)


@pytest.fixture(scope="module")
def step():
    """A function of (weights of the teacher) -> state before and after a step, metrics."""
    with pytest.MonkeyPatch.context() as patch:
        teacher_files.install(patch)
        pure = TokenizerSteps(configuration(token=0.5, relation=0.25, shallow=1))
        state = jax.jit(pure.init)()
        run = jax.jit(lambda *args: pure.train_step(*args, adversarial=False, gather=lambda x: x))
        batch = {name: x[0] for name, x in batches(size=4).items()}
        weights = jax.tree.map(jnp.asarray, pretrained.stand_in(pure.teaching.abstract))
        yield lambda factor: (
            state,
            *run(state, {"teacher": jax.tree.map(lambda x: x * factor, weights)}, batch),
        )


class TestStep:
    @pytest.mark.long
    def test_heads_and_model_learn(self, step):
        before, after, metrics = step(1.0)
        names = {"l1": 0.2, "l2": 1.0, "vq": 1.0, "contrastive": 1.0}
        names |= {"teacher_token": 0.5, "teacher_relation": 0.25}
        expected = sum(weight * metrics[f"loss/{name}"] for name, weight in names.items())
        assert float(metrics["loss"]) == pytest.approx(float(expected), rel=1e-5)
        assert before.teacher_heads.params.keys() == {"deep", "shallow"}
        for ours, theirs in zip(
            *(jax.tree.leaves(x.teacher_heads.opt_state) for x in (before, after)), strict=True
        ):
            assert not np.array_equal(ours, theirs)

    def test_a_step_that_is_not_finite_teaches_nothing(self, step):
        before, after, metrics = step(np.nan)
        assert metrics["skipped"] == 1
        for ours, theirs in zip(
            *(jax.tree.leaves((x.teacher_heads, x.generator)) for x in (before, after)), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)


class TestWhatIsLeftOut:
    def test_without_a_weight_there_is_nothing_of_a_teacher(self):
        pure = TokenizerSteps(configuration(token=0.0))
        state = jax.eval_shape(pure.init)
        assert pure.teaching is None and state.teacher_heads is None
        assert "teacher" not in pure.abstract_networks()
        assert HEADS not in state.items()["training"]

    def test_a_relation_alone_has_no_heads(self):
        pure = TokenizerSteps(configuration(token=0.0, relation=1.0))
        assert jax.eval_shape(pure.init).teacher_heads is None
        assert "text_encoder" in pure.abstract_networks()["teacher"]

    def test_tokens_alone_need_no_text_tower(self):
        assert KINDS["small_clip"].text is not None
        networks = TokenizerSteps(configuration()).abstract_networks()
        assert networks["teacher"].keys() == {"image", "norm"}


class TestWhatIsTaught:
    """Heads that no part of the model follows are of no use: a run of them does not start."""

    def steps(self, frozen, **changes):
        config = configuration(**changes)
        config.optim.frozen = frozen
        return TokenizerSteps(config)

    @pytest.mark.parametrize(
        "frozen",
        [
            ("encoder.*", "quant*", "post_quant_proj.*"),
            # Rows of a codebook get no gradient from behind.
            ("encoder.*", "quant_proj.*", "post_quant_proj.*"),
        ],
    )
    def test_heads_do_not_learn_alone(self, frozen):
        message = (
            r"optim\.frozen=\('encoder.*keeps all that loss\.teacher_token=1\.0 teaches.*leave one "
            r"of encoder\.\*, quant_proj\.\*, post_quant_proj\.\* out .*loss\.teacher_token=0"
        )
        with pytest.raises(ValueError, match=message):
            self.steps(frozen)

    @pytest.mark.parametrize(
        "frozen, weights",
        [
            (("encoder.*", "quant*"), {}),
            (("encoder.stages.*", "quant*", "post_quant_proj.*"), {}),
            (("encoder.*", "quant*", "post_quant_proj.*"), {"token": 0.0, "relation": 1.0}),
        ],
    )
    def test_some_may_be_frozen(self, frozen, weights):
        self.steps(frozen, **weights)
