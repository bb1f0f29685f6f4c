"""Small tokenizers, trained on a few lines, in every shape that model families use and with every
part that we read: {name: the text of a tokenizer.json}."""
import json

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers,
                        pre_tokenizers, processors, trainers)
from tokenizer_cases import CODE, EMOJI, WORDS

R3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
      r"|\s*[\r\n]+|\s+(?!\S)|\s+")
RQ = R3.replace(r"\p{N}{1,3}", r"\p{N}")
RT = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
      r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
      r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CL100K = (r"'(?:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"
          r"|\s*[\r\n]|\s+(?!\S)|\s+").replace("'(?:", "'(?i:")
RQ35 = RQ.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
         r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
         r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
LINES = [" ".join(WORDS), "This is a line of text, and so is this one. " * 3,
         "numbers 1 22 333 4444 2024, x = 3.14", *CODE, *EMOJI, "注意力 は 疎 です", "a  b   c\n\n\td"]
BYTES = [f"<0x{b:02X}>" for b in range(256)]
N = normalizers
P = pre_tokenizers
D = decoders


def added(content, **flags):
    return AddedToken(content, **{"normalized": False, **flags})


BYTE_LEVEL = P.ByteLevel(add_prefix_space=False, use_regex=False)
LLAMA_DECODER = D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse(), D.Strip(" ", 1, 0)])
TOKENS = [added("<|end|>", rstrip=True, special=True), added("<|user|>", special=True),
          added("<left>", lstrip=True), added("word", single_word=True),
          added("Norm É", normalized=True), added("<|endoftext|>", special=True),
          added("<|end"), added("  ", normalized=True)]


def split(regex):
    return P.Sequence([P.Split(Regex(regex), "isolated"), BYTE_LEVEL])


def train(normalizer=None, pre=None, decoder=None, post=None, tokens=TOKENS, model=None,
          fallback=False, vocab_size=700):
    """A trained tokenizer as JSON; model: fields to set in its "model"."""
    tokenizer = Tokenizer(models.BPE(**{k: v for k, v in (model or {}).items()
                                        if k.endswith(("prefix", "suffix"))}))
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre:
        tokenizer.pre_tokenizer = pre
    first = ["<unk>", "<s>", "</s>"] + (BYTES if fallback else [])
    alphabet = P.ByteLevel.alphabet() if "ByteLevel" in str(pre) else []
    tokenizer.train_from_iterator(LINES, trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=first, initial_alphabet=alphabet,
        show_progress=False, **{k: v for k, v in (model or {}).items()
                                if k.endswith(("prefix", "suffix"))}))
    tokenizer.add_tokens(tokens)
    if decoder:
        tokenizer.decoder = decoder
    if post:
        tokenizer.post_processor = post
    root = json.loads(tokenizer.to_str())
    root["added_tokens"] = [t for t in root["added_tokens"] if t["content"] not in BYTES]
    root["model"].update(model or {})
    if fallback:
        root["model"]["byte_fallback"] = True
    return json.dumps(root, ensure_ascii=False, separators=(",", ":"))


def marked(*steps, normalizer=None):
    """A tokenizer whose ids show every cut: each byte has one id inside a word, one at its end."""
    alphabet = sorted(P.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate(alphabet)} | {c + "|": 256 + i for i, c in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab, [], end_of_word_suffix="|"))
    tokenizer.pre_tokenizer = P.Sequence([*steps, BYTE_LEVEL])
    tokenizer.decoder = D.Fuse()
    if normalizer:
        tokenizer.normalizer = normalizer
    return tokenizer.to_str()


def bos():
    return processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])


def shapes():
    unk = {"unk_token": "<unk>"}
    out = {
        "llama3": train(pre=split(R3), decoder=D.ByteLevel(), model={"ignore_merges": True},
                        post=processors.Sequence([processors.ByteLevel(), bos()])),
        "qwen": train(N.NFC(), split(RQ), D.ByteLevel()),
        "smollm": train(None, P.Sequence([P.Digits(individual_digits=True),
                                          P.ByteLevel(add_prefix_space=False)]), D.ByteLevel()),
        "tekken": train(None, split(RT), D.ByteLevel(), model={"ignore_merges": True}),
        "cl100k": train(None, split(CL100K), D.ByteLevel()),
        "roberta": train(None, P.ByteLevel(add_prefix_space=True), D.ByteLevel(),
                         processors.RobertaProcessing(("</s>", 2), ("<s>", 1))),
        "llama2": train(N.Sequence([N.Prepend("▁"), N.Replace(" ", "▁")]), None, LLAMA_DECODER,
                        bos(), model={**unk, "fuse_unk": True}, fallback=True),
        "gemma": train(N.Replace(" ", "▁"), P.Split(" ", "merged_with_previous"),
                       D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse()]), bos(),
                       model={**unk, "fuse_unk": True}, fallback=True),
        "metaspace": train(N.NFKC(), P.Metaspace(prepend_scheme="always", split=True),
                           D.Metaspace(prepend_scheme="always"), model={**unk, "fuse_unk": True}),
        "metaspace_first": train(None, P.Metaspace(prepend_scheme="first", split=True),
                                 D.Metaspace(prepend_scheme="first"), model=unk, tokens=TOKENS[:2]),
        "metaspace_never": train(N.NFD(), P.Metaspace(prepend_scheme="never", split=False),
                                 D.Metaspace(prepend_scheme="never"), model=unk),
        "lowercase": train(N.Sequence([N.Strip(), N.Lowercase(), N.NFKD()]), P.Whitespace(),
                           model=unk, tokens=TOKENS[:-1]),
        "strip_left": train(N.Strip(left=True, right=False), P.WhitespaceSplit(),
                            D.Sequence([D.Fuse(), D.Replace(Regex("[aeiou]+"), "*")]), model=unk,
                            tokens=TOKENS[:-1]),
        "affixes": train(N.Replace(Regex(r"\s+"), " "), P.WhitespaceSplit(), D.Fuse(),
                         model={**unk, "continuing_subword_prefix": "##",
                                "end_of_word_suffix": "</w>"}),
        "punctuation": train(None, P.Sequence([P.Punctuation(), P.Digits(), P.WhitespaceSplit()]),
                             D.Strip("e", 2, 0), model=unk),
        "vanish": train(None, P.Punctuation("contiguous"), D.Fuse()),
        "bert": train(None, P.Whitespace(), None,
                      processors.BertProcessing(("</s>", 2), ("<s>", 1)), model=unk),
        "strip_decoder": train(None, None, D.Sequence([D.Fuse(), D.Strip("T", 1, 0)]), model=unk),
    }
    for behavior in ("removed", "isolated", "merged_with_previous", "merged_with_next",
                     "contiguous"):
        for invert in (False, True):
            name = f"split_{behavior}{'_inverted' if invert else ''}"
            pre = P.Split(Regex(r"[aeiou]|\d+|(?=\s)"), behavior, invert=invert)
            out[name] = train(None, pre, D.Fuse(), model=unk, vocab_size=300)
    isolated = [("gpt2", None), ("r3", R3), ("rq", RQ), ("rq35", RQ35), ("rt", RT),
                ("o200k", O200K), ("cl100k", CL100K)]
    for name, regex in isolated:
        step = P.Split(Regex(regex), "isolated") if regex else P.ByteLevel(add_prefix_space=False)
        out[f"cuts_{name}"] = marked(step)
    for name, step in (("whitespace", P.Whitespace()), ("whitespace_split", P.WhitespaceSplit()),
                       ("digits", P.Digits()), ("punctuation", P.Punctuation()),
                       ("metaspace", P.Metaspace())):
        out[f"cuts_{name}"] = marked(step)
    for name in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase"):
        out[f"bytes_{name}"] = marked(normalizer=getattr(N, name)())
    return out
