"""Files and folders that are written whole or not at all."""

import os

import pytest

from unitok_jax.system import outputs


class TestReplacing:
    def test_a_failure_leaves_what_was_there(self, tmp_path):
        path = tmp_path / "x.safetensors"
        path.write_text("mine")
        with pytest.raises(KeyError), outputs.replacing(path) as partial:
            partial.write_text("half")
            raise KeyError
        assert path.read_text() == "mine" and os.listdir(tmp_path) == ["x.safetensors"]


class TestNewFolder:
    def test_has_all_or_nothing(self, tmp_path):
        output = tmp_path / "a" / "out"
        with pytest.raises(KeyboardInterrupt), outputs.new_folder(output) as folder:
            (folder / "half").write_text("")
            raise KeyboardInterrupt
        assert not output.exists()
        output.mkdir(parents=True)
        with pytest.raises(KeyError), outputs.new_folder(output) as folder:
            (folder / "half").mkdir()
            raise KeyError
        assert output.exists() and not any(output.iterdir())
        with outputs.new_folder(output) as folder:
            (folder / "below").mkdir()
            (folder / "below" / "file").write_text("x")
            assert [path.name for path in output.iterdir()] == [folder.name]
        assert [str(path.relative_to(output)) for path in output.rglob("*")] == [
            "below", "below/file"
        ]  # fmt: skip

    def test_may_be_a_link_and_stays_one(self, tmp_path):
        (tmp_path / "there").mkdir(mode=0o750)
        (tmp_path / "link").symlink_to(tmp_path / "there")
        with outputs.new_folder(tmp_path / "link") as folder:
            (folder / "file").write_text("x")
        assert (tmp_path / "link").is_symlink() and (tmp_path / "there" / "file").is_file()
        assert (tmp_path / "there").stat().st_mode & 0o777 == 0o750

    def test_what_is_there_stays(self, tmp_path):
        (tmp_path / "mine").write_text("mine")
        for output in (tmp_path, tmp_path / "mine"):
            with pytest.raises(ValueError, match="not empty"), outputs.new_folder(output):
                pass
        assert [path.name for path in tmp_path.iterdir()] == ["mine"]

    def test_what_comes_meanwhile_stays(self, tmp_path):
        output = tmp_path / "out"
        with pytest.raises(FileExistsError, match="file"), outputs.new_folder(output) as folder:
            (folder / "file").write_text("new")
            (output / "file").write_text("mine")
        assert (output / "file").read_text() == "mine" and len(list(output.iterdir())) == 1

    def test_a_killed_one_can_be_tried_again(self, tmp_path):
        (tmp_path / ".unfinished-0123abcd").mkdir()
        with outputs.new_folder(tmp_path) as folder:
            (folder / "file").write_text("x")
        assert (tmp_path / "file").is_file()

    def test_messages_name_the_flag(self, tmp_path):
        (tmp_path / "mine").touch()
        with pytest.raises(ValueError, match=f"^--output={tmp_path} exists and is not empty"):
            with outputs.new_folder(tmp_path, "--output"):
                pass
        with pytest.raises(ValueError, match=f"^{tmp_path} exists and is not empty"):
            with outputs.new_folder(tmp_path):
                pass
