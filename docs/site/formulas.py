"""Formulas of docstrings, such as `y = gamma * (x - mean) / sqrt(variance + epsilon)`, as MathML.

A paragraph whose every line is a formula becomes a table of aligned formulas. Whatever cannot be
read as formulas stays a block of code. Browsers draw MathML themselves, so the site needs no
JavaScript and no network for it.

    line        chain, or chain and remark:  y = x   if it fires
    chain       sum relation sum (relation sum)*, or "text" sum
    sum         product (("+" or "-") product)*
    product     power (("*" or "/") power)*
    power       atom ("^" atom)?
    atom        number, name, "text", name(...), (...), [...], |...|, ||...||_2, -atom,
                or words and an atom:  mean over chunks k of C(n_k)
"""

import html
import re

SYMBOLS = {"gamma": "γ", "beta": "β", "epsilon": "ε", "pi": "π", "-": "−"}
RELATIONS = {"=": "=", "<-": "←", "<=": "≤", ">": ">", ",": ","}
BIG = {"sum": "∑"}  # With a subscript they take the product that follows.
CLOSING = {"(": ")", "[": "]", "|": "|", "||": "||"}
TOKEN = re.compile(r'\s*(\d+(?:\.\d+)?|[A-Za-z]\w*|"\w+"|<-|<=|\|\|(?:_\w)?|[-+*/^()\[\]|=>,])')
REMARK = re.compile(r"(?:,\s+|\s{2,})((?:if|where|otherwise|after|with|mean and)\b.*)$")


class NotAFormula(Exception):
    pass


class Parser:
    """Reads one line, from left to right; every method returns MathML."""

    def __init__(self, text):
        self.tokens = []
        position = 0
        while position < len(text):
            if not (found := TOKEN.match(text, position)):
                raise NotAFormula(text)
            self.tokens.append(found[1])
            position = found.end()

    def peek(self):
        return self.tokens[0] if self.tokens else ""

    def take(self, *wanted):
        if wanted and self.peek() not in wanted or not self.tokens:
            raise NotAFormula(self.peek())
        return self.tokens.pop(0)

    def chain(self):
        """What is left of the first relation, the relation, and the rest."""
        has_label = self.peek().startswith('"')
        left = self.atom() if has_label else self.sum()
        relation = "" if has_label else self.take(*RELATIONS)
        if relation == ",":
            raise NotAFormula(relation)
        rest = [self.sum()]
        while self.tokens:
            rest += [operator(RELATIONS[self.take(*RELATIONS)]), self.sum()]
        return left, operator(RELATIONS.get(relation, "")), "".join(rest)

    def sum(self):
        parts = [self.product()]
        while self.peek() in ("+", "-"):
            parts += [operator(SYMBOLS.get(sign := self.take(), sign)), self.product()]
        return "".join(parts)

    def product(self):
        parts = [self.power()]
        while self.peek() in ("*", "/"):
            if self.take() == "*":
                parts += [operator("·"), self.power()]
            else:
                parts[-1] = f"<mfrac>{bare(parts[-1])}{bare(self.power())}</mfrac>"
        return "".join(parts)

    def power(self):
        base = self.atom()
        if self.peek() != "^":
            return base
        self.take()
        return f"<msup>{base}{bare(self.atom())}</msup>"

    def atom(self):
        token = self.take()
        if token == "-":
            return f"<mrow>{operator('−')}{self.atom()}</mrow>"
        if token in CLOSING:
            return self.bracketed(token)
        if token[0].isdigit():
            return f"<mn>{token}</mn>"
        if token[0] == '"':
            return f"<mtext>{token[1:-1]}</mtext>"
        if not token[0].isalpha():
            raise NotAFormula(token)
        name, _, index = token.rpartition("_")
        if name in BIG and index:
            sign = f"<munder><mo>{BIG[name]}</mo><mi>{index}</mi></munder>"
            return f"<mrow>{sign}{self.product()}</mrow>"
        if token == "sqrt":
            return f"<msqrt>{bare(self.bracketed(self.take('(')))}</msqrt>"
        if self.peek()[:1].isalnum():
            return f"<mrow>{identifier(token)}<mtext>&nbsp;</mtext>{self.atom()}</mrow>"
        called = operator(BIG[token]) if token in BIG else identifier(token)
        while self.peek() in ("(", "["):
            called = f"<mrow>{called}{self.bracketed(self.take())}</mrow>"
        return called

    def bracketed(self, opening):
        """`(a, b)`, `[a, b]`, `|a|`, or a norm, which may have an index: `||a||_2`."""
        parts = [self.sum()]
        while self.peek() == ",":
            parts += [operator(self.take()), self.sum()]
        closing = self.take()
        if closing.partition("_")[0] != CLOSING[opening]:
            raise NotAFormula(closing)
        inside = f"<mrow>{''.join(parts)}</mrow>"
        left, right = (operator(side.replace("||", "‖")) for side in (opening, CLOSING[opening]))
        if index := closing.partition("_")[2]:
            right = f"<msub>{right}<mn>{index}</mn></msub>"
        return f"<mrow>{left}{inside}{right}</mrow>"


def operator(sign):
    return f"<mo>{html.escape(sign)}</mo>"


def identifier(name):
    """A name in upright letters; `x_hat` has a hat, and one letter at the end is an index."""
    base, _, index = name.rpartition("_")
    if index == "hat":
        return f"<mover>{identifier(base)}<mo>^</mo></mover>"
    if base and len(index) == 1:
        return f"<msub>{identifier(base)}<mi>{index}</mi></msub>"
    return f"<mi>{SYMBOLS.get(name, name)}</mi>"


def bare(mathml):
    """Without the parentheses around it, which a fraction or a root does not need."""
    inside = re.fullmatch(r"<mrow><mo>\(</mo>(<mrow>.*</mrow>)<mo>\)</mo></mrow>", mathml)
    return inside[1] if inside else mathml


def formulas(paragraph):
    """The MathML of a paragraph; raises `NotAFormula` if one of its lines is none."""
    rows = []
    for line in re.sub(r"\n +\+", " +", paragraph).split("\n"):
        remark = REMARK.search(line)
        formula = line[: remark.start()] if remark else line
        cells = list(Parser(formula.rstrip(", ")).chain())
        text = f"<mtext>{html.escape(remark[1].replace('`', ''))}</mtext>" if remark else ""
        rows.append("".join(f"<mtd>{cell}</mtd>" for cell in [*cells, text]))
    table = "".join(f"<mtr>{row}</mtr>" for row in rows)
    return f'<div class="formulas"><math display="block"><mtable>{table}</mtable></math></div>'
