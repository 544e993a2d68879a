"""Text for language models: from files, folders and data sets to rows of tokens, some of them held out by document."""

from bilens.text._pieces import pieces
from bilens.text.encoding import Tokenizer, tokenizer, trained
from bilens.text.found import PLAYS, SmallTextWarning, default, english
from bilens.text.sources import Document, documents
from bilens.text.split import Corpus, Split, corpus, read

__all__ = [
    "PLAYS",
    "Corpus",
    "Document",
    "SmallTextWarning",
    "Split",
    "Tokenizer",
    "corpus",
    "default",
    "documents",
    "english",
    "pieces",
    "read",
    "tokenizer",
    "trained",
]
