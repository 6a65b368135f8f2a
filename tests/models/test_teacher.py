"""The mean teacher: averages, batch norm of its own, no graph, modes."""

from __future__ import annotations

import pytest
import torch
from timm.layers import DropPath
from torch import nn

from uda.models import Teacher, ema_alpha, ema_update_
from uda.types import SegOutput, TeacherSpec


class Student(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout2d(0.5), DropPath(0.5))

    def forward(self, images):
        x = self.body(images)
        return SegOutput(x, x)


def test_the_ramp():
    assert [ema_alpha(i, 0.9) for i in (0, 1, 3, 100)] == [0.0, 0.5, 0.75, 0.9]


def test_until_the_cap_the_teacher_is_the_mean_of_all_students():
    student = Student()
    teacher, seen = Teacher(student, decay=0.999), []
    for index in range(5):
        nn.init.normal_(student.body[0].weight)
        seen.append(student.body[0].weight.detach().clone())
        teacher.update(student, index)
    torch.testing.assert_close(teacher.model.body[0].weight, torch.stack(seen).mean(0))


def test_buffers_are_the_teachers_own_in_train_mode_and_the_students_in_eval_mode():
    student, images = Student(), torch.rand(4, 3, 5, 5)
    own, copied = Teacher(student, mode="train"), Teacher(student, mode="eval")
    student(images)
    for teacher in (own, copied):
        teacher.update(student, 3)
    assert own.model.body[1].running_mean.abs().sum() == 0
    assert torch.equal(copied.model.body[1].running_mean, student.body[1].running_mean)
    own(images)
    assert own.model.body[1].running_mean.abs().sum() > 0
    before = copied.model.body[1].running_mean.clone()
    copied(images)
    assert torch.equal(copied.model.body[1].running_mean, before)


def test_updates_every_so_often_count_as_the_ramps_steps():
    """With every=3 the iterations 0, 3, 6 are updates 0, 1, 2: the teacher is the plain mean of these students."""
    student = Student()
    teacher, seen = Teacher(student, decay=0.999, every=3), []
    for index in range(9):
        nn.init.normal_(student.body[0].weight)
        before = teacher.model.body[0].weight.clone()
        teacher.update(student, index)
        if index in (0, 3, 6):
            seen.append(student.body[0].weight.detach().clone())
            torch.testing.assert_close(teacher.model.body[0].weight, torch.stack(seen).mean(0))
        else:
            assert torch.equal(teacher.model.body[0].weight, before)


@pytest.mark.parametrize(
    ("mode", "buffers", "mean", "batches"),
    [
        ("train", None, 0.0, 0), ("eval", None, 8.0, 9), ("train", "own", 0.0, 0), ("eval", "own", 0.0, 0),
        ("train", "copied", 8.0, 9), ("train", "averaged", 2.0, 9), ("eval", "averaged", 2.0, 9),
    ],
)  # fmt: skip
def test_buffers(mode, buffers, mean, batches):
    """Update 3 has alpha 1 - 1/4: a running mean of 0 meets the student's 8; a count is never averaged."""
    student = Student()
    teacher = Teacher(student, decay=0.999, mode=mode, buffers=buffers)
    student.body[1].running_mean.fill_(8.0)
    student.body[1].num_batches_tracked.fill_(9)
    teacher.update(student, 3)
    assert teacher.model.body[1].running_mean.tolist() == [mean] * 4
    assert teacher.model.body[1].num_batches_tracked.item() == batches


def test_equal_constants_stay_as_they_are():
    """A normalisation's mean is a buffer, too; 0.99 x + 0.01 x is not x in floating point."""
    student = Student()
    student.register_buffer("mean", torch.rand(1000))
    teacher = Teacher(student, decay=0.99, ramp=False, buffers="averaged")
    for index in range(50):
        teacher.update(student, index)
    assert torch.equal(teacher.model.mean, student.mean)


def test_as_sac_does_it():
    """Line by line what visinf/da-sac does (models/sac.py, _momentum_update, train.py: i % 100 == 0)."""
    momentum, every = 0.99, 3
    student = Student()
    teacher = Teacher(student, 0.99, update="before", mode="eval", every=every, ramp=False, buffers="averaged")
    slow, slow_init = None, False
    for i in range(10):
        # the student has moved since, and so have its running statistics
        with torch.no_grad():
            for value in (*student.parameters(), student.body[1].running_mean, student.body[1].running_var):
                value.add_(torch.rand_like(value))
        teacher.update(student, i)
        if i % every == 0:
            backbone = student.state_dict()
            if not slow_init:
                slow, slow_init = {key: value.clone() for key, value in backbone.items()}, True
            else:
                for key, value in backbone.items():
                    if key.split(".")[-1] in ("weight", "bias", "running_mean", "running_var"):
                        slow[key].mul_(momentum)
                        slow[key].add_(value * (1.0 - momentum))
        for key, value in teacher.model.state_dict().items():
            if key.split(".")[-1] in ("weight", "bias", "running_mean", "running_var"):
                torch.testing.assert_close(value, slow[key])
    assert not teacher.model.training


def test_a_spec_says_how_it_differs():
    assert str(TeacherSpec()) == "decay 0.999, updated after the step, in train mode"
    sac = TeacherSpec(0.99, "before", "eval", every=100, ramp=False, buffers="averaged")
    assert str(sac) == "decay 0.99, updated before every 100 steps, in eval mode, without ramp, averaged buffers"
    assert TeacherSpec.of({"every": 5}, sac) == TeacherSpec(0.99, "before", "eval", 5, False, "averaged")


def test_modes():
    student = Student()
    teacher = Teacher(student.train(), mode="train")
    norm, dropout, path = teacher.model.body[1:]
    assert norm.training
    assert not dropout.training
    assert not path.training
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(teacher(images).logits, teacher(images).logits)
    teacher.eval()
    assert not norm.training
    teacher.train()
    assert norm.training
    assert not dropout.training
    always = Teacher(student, mode="eval").train()
    assert not any(module.training for module in always.modules())
    assert student.training


def test_nothing_leaks_into_autograd():
    student = Student()
    teacher = Teacher(student)
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    assert not teacher(images).logits.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    teacher.update(student, 2)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in student.parameters())


def test_state_round_trip():
    student = Student()
    teacher, other = Teacher(student), Teacher(Student())
    teacher.update(student, 4)
    other.load_state_dict(teacher.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(teacher.state_dict().values(), other.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay": 1.5}, r"decay is 1.5, must be in \[0, 1\]"),
        ({"update": "during"}, "update is 'during', must be one of 'after', 'before'"),
        ({"mode": "frozen"}, "mode is 'frozen', must be one of 'train', 'eval'"),
        ({"every": 0}, "every is 0, must be a whole number >= 1"),
        ({"every": 1.5}, "every is 1.5"),
        ({"ramp": 1}, "ramp is 1, must be True or False"),
        ({"buffers": "mean"}, "buffers is 'mean', must be one of 'own', 'copied', 'averaged', None"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Teacher(Student(), **arguments)


def test_another_network_is_refused():
    with pytest.raises(ValueError, match="2 and 1"):
        ema_update_([torch.zeros(1), torch.zeros(1)], [torch.zeros(1)], 0.5)
