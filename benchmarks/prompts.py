"""Sixty-four prompts of very different lengths, for comparisons of whole texts."""

_TEXT = """
A compiler reads a program in one language and writes the same program in another. Most of its work happens between
the two, on a form of the program that neither people nor machines use directly. Each pass over that form improves one
thing and keeps the meaning. The order of the passes matters less than people think, and more than they hope.
When the server starts, it reads the configuration file and opens the listening socket. If the port is in use, it
prints an error message and exits. A client that connects before the start has finished waits in the queue of the
kernel. The default time-out is thirty seconds, and can be changed with an option on the command line.
def area(width, height): return width * height. The function above takes two arguments and returns their product. It
raises no exception for negative numbers, because a caller may want them. To install the package, run the following
command in a terminal and follow the instructions. The index of a table is a sorted list of keys and of the places
where the rows are. A query that names the first column of the index can use it; a query that names only the last one
cannot. To see which plan was chosen, put the word explain before the query. The river rises in the mountains and runs
for two hundred miles through farms and small towns before it reaches the sea. In the spring it floods the lower
fields, and the water leaves behind a thin layer of dark earth. A branch is a name for a commit. When you commit, the
name moves on to the new one. To merge is to make a commit with two parents, and most of the time nothing has to be
decided by hand. If both sides changed the same line, the tool stops and asks. Never trust a clock that has only one
hand, said the old engineer, and never trust one that has three.
"""


def prompts(count: int = 64) -> list[str]:
    """Pieces of a text of our own, from one word to a hundred."""
    words = _TEXT.split()
    return [" ".join(words[(i * 5) % 200 :][: 1 + (i * 37) % 100]) for i in range(count)]
