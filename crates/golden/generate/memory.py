"""A mixture of memory experts by its equations, in f64: selection, output, gradients, and AdamW on rows.

memory/KIND.safetensors   KIND: low-rank, value
  x [t, in], weight [out, in], query [d, in], offset [d], keys.0 and keys.1 [n, d/2], scale [], top_k [], temperature [];
  touched [m]: numbers of the experts that have a row; rows [m, w]: u [r, in] (not of values), then v [r, out];
  moving [l]: those of them that train; dy [t, out]; and what follows: experts [t, k] and shares [t, k], best
  first; y; d_x; d_rows [l, w].

With q = query x - offset and s_ij = (q1 . keys0_i + q2 . keys1_j) / sqrt(d) of expert i n + j, the k experts of
the largest s have shares a = softmax(s / temperature), and y = weight x + scale sum_e a_e sum_r v_er (u_er . x).

memory/adamw.safetensors
  rows [m, w]; gradients [steps, m, w]; touched [steps, m] (1 where a row has a gradient in that step); numbers
  [6]: learning rate, beta1, beta2, epsilon, weight decay, gradient scale; after [steps, m, w]: the rows after
  each step, where a row that is not touched stays, and each counts its own updates.

Made with: torch 2.11.0.
"""

import torch

from tiny import fresh, output_folder, write_tensors


def case(seed, kind, rank):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape, std=1.0):
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * std

    t, inputs, outputs, n, d, k, scale, temperature = 9, 11, 7, 5, 6, 4, 1.7, 0.6
    x = draw(t, inputs).requires_grad_()
    weight, query, offset = draw(outputs, inputs, std=0.5), draw(d, inputs, std=0.6), draw(d, std=0.3)
    keys = [draw(n, d // 2, std=1.5) for _ in range(2)]
    first = rank * inputs if kind == "low-rank" else 0
    touched = torch.randperm(n * n, generator=generator)[:17]
    rows = draw(len(touched), first + rank * outputs).requires_grad_()

    q = x @ query.T - offset
    halves = [part @ keys[half].T for half, part in enumerate(q.split(d // 2, dim=1))]
    scores = (halves[0][:, :, None] + halves[1][:, None, :]).flatten(1) / d**0.5
    best = scores.topk(k, dim=1)
    shares = (best.values / temperature).softmax(1)

    place = {int(expert): at for at, expert in enumerate(touched)}
    added = []
    for token in range(t):
        total = torch.zeros(outputs, dtype=torch.float64)
        for expert, share in zip(best.indices[token].tolist(), shares[token]):
            if expert not in place:
                continue
            row = rows[place[expert]]
            for r in range(rank):
                v = row[first + r * outputs : first + (r + 1) * outputs]
                inner = row[r * inputs : (r + 1) * inputs] @ x[token] if first else 1.0
                total = total + share * inner * v
        added.append(scale * total)
    y = x @ weight.T + torch.stack(added)
    dy = draw(t, outputs)
    d_x, d_rows = torch.autograd.grad(y, [x, rows], dy)
    moving = touched[::2]
    return dict(
        x=x, weight=weight, query=query, offset=offset, scale=torch.tensor(scale, dtype=torch.float64),
        top_k=torch.tensor(k), temperature=torch.tensor(temperature, dtype=torch.float64), touched=touched, rows=rows, moving=moving, dy=dy, experts=best.indices,
        shares=shares, y=y, d_x=d_x, d_rows=d_rows[::2],
    ) | {f"keys.{half}": keys[half] for half in range(2)}


def adamw():
    generator = torch.Generator().manual_seed(80)
    steps, m, w = 6, 4, 37
    rate, beta1, beta2, epsilon, decay, scale = numbers = 0.03, 0.8, 0.95, 1e-6, 0.1, 0.7
    rows = torch.randn(m, w, generator=generator, dtype=torch.float64)
    gradients = torch.randn(steps, m, w, generator=generator, dtype=torch.float64)
    touched = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 1], [1, 1, 0, 1], [0, 1, 0, 0], [1, 1, 0, 1]])
    values, first, second = rows.clone(), torch.zeros(m, w).double(), torch.zeros(m, w).double()
    count, after = [0] * m, []
    for step in range(steps):
        for row in range(m):
            if not touched[step, row]:
                continue
            count[row] += 1
            g = gradients[step, row] * scale
            first[row] = beta1 * first[row] + (1 - beta1) * g
            second[row] = beta2 * second[row] + (1 - beta2) * g * g
            mean, square = first[row] / (1 - beta1 ** count[row]), second[row] / (1 - beta2 ** count[row])
            values[row] = values[row] * (1 - rate * decay) - rate * mean / (square.sqrt() + epsilon)
        after.append(values.clone())
    return dict(
        rows=rows, gradients=gradients, touched=touched, after=torch.stack(after),
        numbers=torch.tensor(numbers, dtype=torch.float64),
    )


def main():
    out = fresh(output_folder() / "memory")
    write_tensors(out / "low-rank.safetensors", case(70, "low-rank", 2))
    write_tensors(out / "value.safetensors", case(71, "value", 1))
    write_tensors(out / "adamw.safetensors", adamw())


if __name__ == "__main__":
    main()
