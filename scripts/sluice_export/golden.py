"""Golden texts: written for this project, so that a manifest may carry them anywhere."""

def pairs():
    """Each text and one further on, for models of pairs."""
    return [(t, TEXTS[(i + 5) % len(TEXTS)]) for i, t in enumerate(TEXTS)]


TEXTS = [
    "What a wonderful film: clever, warm and beautifully played.",
    "The battery died after a day, and nobody answers my mails.",
    "It is neither good nor bad.",
    "Ada Lovelace met Charles Babbage in London in June 1833.",
    "Siemens and the University of Geneva will open a laboratory in Lisbon, the United Nations said.",
    "You are all cordially invited to leave.",
    "Zoë flew from São Paulo to 東京 😀!",
    "?",
    "Marta Kowalska of Telenor won the race in Bergen.",
    "I would buy it again tomorrow.",
    "The soup was cold, the waiter was rude and the bill was wrong.",
    "Can I use my card in Canada?",
    "The European Union and Japan signed the agreement in Brussels on Tuesday.",
    "My card has not arrived yet; when can I expect it, and whom do I call if it never comes? I have moved from Ghent "
    "to Tampere, "
    "so the letter may have gone to the old address. The bank's app says that it was sent eleven days ago by "
    "ordinary mail. "
    "Please send a new one with the next post and close the account of the old card.",
]
