"""What share of the instructions of the hottest loop are multiply-adds, out of a compiler's own print of its code.

    RADV_DEBUG=asm  COMPILER navi31 diffuse profile --compiler --all --json=J.json 2>ASM
    NAK_DEBUG=print COMPILER nv172  diffuse profile --compiler --all --json=J.json 2>ASM
    python3 benches/multiply_adds.py J.json ASM [PATTERN]

Pipelines are printed in the order of the JSON. The hottest loop is the one with most multiply-adds; of AMD's code, hints that
take no turn (s_delay_alu, s_nop) are left out, and one instruction may hold two multiply-adds (v_dual_fmac). The branches that
a turn does not take are counted, too.
"""
import json
import re
import sys


def amd(text):
    """Blocks of each shader: (label, instructions), and for each instruction the label that it may jump to."""
    for shader in text.split("Compute Shader\n")[1:]:
        label, blocks = None, {}
        for line in shader.split("disasm:\n", 1)[1].split("\n\n")[0].split("\n"):
            if match := re.match(r"(BB\d+):", line):
                label = match[1]
                blocks[label] = []
            elif label and (code := line.split(";")[0].strip()) and not code.startswith(("s_delay_alu", "s_nop")):
                blocks[label].append(code)
        order = list(blocks)
        follows = {}
        for index, (name, code) in enumerate(blocks.items()):
            targets = [match[1] for line in code if (match := re.match(r"s_c?branch\S*\s+(BB\d+)", line))]
            falls = not code or not re.match(r"s_(branch|endpgm)", code[-1])
            follows[name] = targets + ([order[index + 1]] if falls and index + 1 < len(order) else [])
        yield blocks, follows


def nvidia(text):
    for shader in text.split("NAK IR after calc_instr_deps:\n")[1:]:
        label, blocks, follows = None, {}, {}
        for line in re.split(r"\n\n|NAK", shader)[0].split("\n"):
            if match := re.match(r"block\S* (\d+) L\d+ \[([^\]]*)\]", line):
                label = match[1]
                blocks[label] = []
                for before in filter(None, (name.strip() for name in match[2].split(","))):
                    follows.setdefault(before, []).append(label)
            elif label and (code := line.split("//")[0].strip()) and not code.startswith(("}", "nop")):
                blocks[label].append(code)
        yield blocks, follows


def loops(blocks, follows):
    """The instructions of each natural loop."""
    order = {name: index for index, name in enumerate(blocks)}
    before = {name: [other for other in blocks if name in follows.get(other, [])] for name in blocks}
    for head in blocks:
        backs = [name for name in before[head] if order[name] >= order[head]]
        body, todo = {head}, list(backs)
        while todo:
            name = todo.pop()
            if name not in body:
                body.add(name)
                todo += before[name]
        # One that can be entered elsewhere is a jump over code that lies in between, and no loop.
        entry = next(iter(blocks))
        if backs and (head == entry or entry not in body):
            yield [code for name in body for code in blocks[name]]


def main():
    pipelines = json.load(open(sys.argv[1]))["pipelines"]
    text = open(sys.argv[2]).read()
    shaders = list(amd(text) if "disasm:\n" in text else nvidia(text))
    assert len(shaders) == len(pipelines), f"{len(shaders)} shaders of {len(pipelines)} pipelines are printed"
    for pipeline, (blocks, follows) in zip(pipelines, shaders):
        name = " ".join(filter(None, [pipeline["entry"], pipeline["constants"], pipeline["precision"]]))
        if not re.search(sys.argv[3] if len(sys.argv) > 3 else r"(conv2d|linear)\.tiled", name):
            continue
        is_multiply_add = re.compile(r"v_(dual_)?(fma|fmac)_|\bffma")
        counts = [(sum(bool(is_multiply_add.search(code)) for code in loop), len(loop)) for loop in loops(blocks, follows)]
        most, all_of_it = max(counts, default=(0, 1))
        print(f"{name:72} {most:4} of {all_of_it:4}  {most / all_of_it:4.0%}")


main()
