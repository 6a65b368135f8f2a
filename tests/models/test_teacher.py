"""The mean teacher: averages, batch norm of its own, no graph, modes."""

from __future__ import annotations

import pytest
import torch
from timm.layers import DropPath
from torch import nn

from uda.models import Teacher, ema_alpha, ema_update_
from uda.types import SegOutput


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
        ({"decay": 1.5}, r"decay must be in \[0, 1\], got 1.5"),
        ({"update": "during"}, "'after' or 'before', got 'during'"),
        ({"mode": "frozen"}, "'train' or 'eval', got 'frozen'"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Teacher(Student(), **arguments)


def test_another_network_is_refused():
    with pytest.raises(ValueError, match="2 and 1"):
        ema_update_([torch.zeros(1), torch.zeros(1)], [torch.zeros(1)], 0.5)
