"""Which tools are offered for what is said: the right one for a request, none for a chat."""

from __future__ import annotations

import time

import pytest

from mobilellm_mlx.tools.builtin import Surroundings, builtin_tools
from mobilellm_mlx.tools.command import Ran
from mobilellm_mlx.tools.relevance import Relevance, telling_words, words
from mobilellm_mlx.tools.tool import Example, Tool

REQUESTS = [
    ("What is 17 times 23?", "calculator"),
    ("3*17", "calculator"),
    ("calculate 18% of 240", "calculator"),
    ("what's the square root of 144?", "calculator"),
    ("How much is 1250 divided by 8", "calculator"),
    ("15 percent tip on $48.50", "calculator"),
    ("add 12.5 and 7.25 and 3", "calculator"),
    ("What time is it in Tokyo?", "current_time"),
    ("what time is it", "current_time"),
    ("what's today's date?", "current_time"),
    ("current time in New York please", "current_time"),
    ("what day is it today", "current_time"),
    ("Convert 5 miles to kilometers", "convert_units"),
    ("how many cups are in 2 liters", "convert_units"),
    ("what is 72 F in celsius", "convert_units"),
    ("10 kg in pounds", "convert_units"),
    ("How tall is 180 cm in feet?", "convert_units"),
    ("note: buy milk and eggs", "add_note"),
    ("Remember that the car is parked on level 3", "add_note"),
    ("write down that Anna's birthday is June 4", "add_note"),
    ("add a note about the dentist appointment", "add_note"),
    ("find my note about the dentist", "find_notes"),
    ("what notes do I have", "find_notes"),
    ("what did I write down about the garage?", "find_notes"),
    ("set a timer for 10 minutes", "set_timer"),
    ("timer 5 min", "set_timer"),
    ("remind me in half an hour to check the oven", "set_timer"),
    ("wake me up at 7:30", "set_alarm"),
    ("set an alarm for 6 am", "set_alarm"),
    ("which timers are running?", "list_timers"),
    ("how long is left on my timer", "list_timers"),
    ("list the files in my documents folder", "list_files"),
    ("what files are in Projects?", "list_files"),
    ("read notes.txt", "read_file"),
    ("show me the contents of budget.csv", "read_file"),
    ("which files mention the budget?", "search_files"),
    ("search my files for invoice 2024", "search_files"),
    ("what's on my clipboard?", "read_clipboard"),
    ("read the clipboard", "read_clipboard"),
    ("copy hello world to the clipboard", "copy_to_clipboard"),
    ("open https://example.com", "open_url"),
    ("open wikipedia.org", "open_url"),
    ("open Safari", "open_app"),
    ("launch the calculator app", "open_app"),
    ("how much battery is left?", "system_status"),
    ("is the network up?", "system_status"),
    ("how much disk space do I have", "system_status"),
    ("how much memory is free", "system_status"),
    ("run my Morning Routine shortcut", "run_shortcut"),
    ("run Log Weight", "run_shortcut"),
    ("what did we talk about last week regarding Lisbon?", "search_chats"),
    ("search my chats for sourdough", "search_chats"),
    ("how much is 45 plus 88 minus 12", "calculator"),
    ("(12+8)*4", "calculator"),
    ("what's 20% off 59.99", "calculator"),
    ("2^10", "calculator"),
    ("what's the time in Berlin", "current_time"),
    ("got the time?", "current_time"),
    ("date today", "current_time"),
    ("100 fahrenheit to celsius", "convert_units"),
    ("how many ounces in a pound", "convert_units"),
    ("convert 3.5 inches to cm", "convert_units"),
    ("jot down: call mom on Sunday", "add_note"),
    ("make a note that the wifi password is on the fridge", "add_note"),
    ("save a note saying rent is due", "add_note"),
    ("show my notes about taxes", "find_notes"),
    ("search my notes for recipe", "find_notes"),
    ("start a 25 minute timer", "set_timer"),
    ("countdown 90 seconds", "set_timer"),
    ("alarm at 6:45 tomorrow", "set_alarm"),
    ("do I have any timers running", "list_timers"),
    ("what's in my Projects folder", "list_files"),
    ("find files containing the word invoice", "search_files"),
    ("what does notes.txt say", "read_file"),
    ("paste what I copied", "read_clipboard"),
    ("copy this text to my clipboard: hello", "copy_to_clipboard"),
    ("go to github.com", "open_url"),
    ("is my laptop charging?", "system_status"),
    ("am I online?", "system_status"),
    ("how full is my disk", "system_status"),
    ("Run the Morning Routine", "run_shortcut"),
    ("have we discussed sourdough before?", "search_chats"),
    ("what's twelve times eight", "calculator"),
    ("seventy five divided by three", "calculator"),
    ("half of 86", "calculator"),
    ("is it late in Paris?", "current_time"),
    ("do you know what time it is in Sydney right now", "current_time"),
    ("when it's noon in Chicago, what time is it in Madrid?", "convert_time"),
    ("how many days till Halloween?", "date_math"),
    ("what weekday was 20 July 1969", "date_math"),
    ("how many days from 3 May to 9 June?", "days_between"),
    ("how many litres is 3 gallons", "convert_units"),
    ("I'm 5'11\", what is that in centimetres?", "convert_units"),
    ("two cups in ml", "convert_units"),
    ("give me a ten minute timer for the eggs", "set_timer"),
    ("set an alarm at quarter past six called gym", "set_alarm"),
    ("stop the pasta timer", "cancel_timer"),
    ("remember the milk is in the garage fridge", "add_note"),
    ("did I note anything about the plumber?", "find_notes"),
    ("throw away the note about the plumber", "delete_note"),
    ("what did we say about rust?", "search_chats"),
    ("what's inside budget.csv", "read_file"),
    ("look for the word passport in my documents", "search_files"),
    ("put this on the clipboard: see you at eight", "copy_to_clipboard"),
    ("take me to news.example.org", "open_url"),
    ("is my battery low?", "system_status"),
    ("how much room is left on the disk", "system_status"),
]
"""What is said, and the tool that is meant."""

CHATS = [
    "tell me a story about a dragon",
    "who wrote Hamlet?",
    "thanks!",
    "hello",
    "How are you today?",
    "write a poem about the sea",
    "explain quantum entanglement",
    "why is the sky blue?",
    "what is the capital of France?",
    "give me some advice on learning to play the guitar",
    "I feel sad today",
    "what is the meaning of life?",
    "translate good morning into Spanish",
    "summarize the plot of Romeo and Juliet",
    "tell me a joke",
    "who are you?",
    "what can you do?",
    "write a short story about a clockmaker",
    "what is the difference between a cat and a dog?",
    "can you help me write an email to my boss?",
    "I had a great time yesterday",
    "what is the time complexity of quicksort?",
    "who was the first person on the moon?",
    "what's a good name for a puppy?",
    "explain how photosynthesis works",
    "write a python function that reverses a list",
    "what are the benefits of running every day?",
    "is it okay to open a window during a storm?",
    "do you like music?",
    "describe the taste of coffee",
    "what happened in 1989?",
    "list three European countries",
    "What year did World War 2 end?",
    "how do airplanes fly?",
    "yes please",
    "no, the other one",
    "what do you think about memory and identity?",
    "read me a bedtime story",
    "can you find me a good recipe for pancakes?",
    "take note of how the author uses metaphor and explain it",
    "what does battery mean in law?",
    "how many planets are there?",
    "good morning",
    "what's up",
    "I'm bored",
    "tell me about the Roman Empire",
    "how do magnets work?",
    "what is love?",
    "give me a recipe for lasagna",
    "who painted the Mona Lisa?",
    "can you recommend a book?",
    "my dog ran away today",
    "what are the rules of chess?",
    "write me a limerick about cheese",
    "why do cats purr?",
    "how old is the universe?",
    "is time travel possible?",
    "what is machine learning?",
    "I need help with my homework",
    "what's your favourite colour?",
    "do fish sleep?",
    "compare Python and Java",
    "how can I save money?",
    "when was the telephone invented?",
    "what makes a good leader?",
    "tell me something interesting",
    "how do I open a bank account?",
    "that's not what I asked",
    "what does a file clerk do?",
    "I am running late for school",
    "could you be more specific?",
    "what is a good way to remember names?",
    "what is the best way to read more books?",
    "how long does it take to boil an egg?",
    "what is power?",
    "how do computers store memory?",
    "how heavy is an elephant?",
    "what's the best time of year to visit Japan?",
    "should I take notes by hand or on a laptop?",
    "how much does a wedding usually cost?",
    "who invented the light bulb?",
    "my alarm clock at home is broken and I am upset",
    "is it better to run in the morning or at night?",
    "tell me about your day",
    "what is the tallest mountain in Africa?",
    "I keep forgetting people's names",
    "what's a polite way to say no?",
    "which planet is closest to the sun?",
    "can you explain what an API is?",
    "my girlfriend and I had an argument",
    "what does the word serendipity mean?",
    "are cats smarter than dogs?",
    "help me think of a birthday present for my dad",
    "why did the Titanic sink?",
    "I love rainy days",
    "what should I cook tonight?",
    "how many legs does a spider have?",
    "what's the weather like on Mars?",
    "give me five ideas for a short film",
    "is Paris a beautiful city?",
    "do you remember your childhood?",
    "what languages are spoken in Switzerland?",
]
"""What is said and wants no tool."""

# Somewhat below what was measured when the weights were set. Two groups were written after them,
# and measured before anything was changed: of 30 requests and 35 chats 29 and 31 were right, of the
# last 25 and 25 (three of those requests were known to fail) 18 and 21.
RECALL, RESTRAINT = 0.96, 0.96


class MacRunner:
    """A Mac with two shortcuts."""

    def find(self, program: str) -> str:
        return f"/usr/bin/{program}"

    def run(self, argv: list[str], **_: object) -> Ran:
        return Ran(0, "Morning Routine\nLog Weight\n" if argv == ["shortcuts", "list"] else "")


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> list[Tool]:
    home = tmp_path_factory.mktemp("person")
    for folder in ("Projects", "Applications/Safari.app/Contents", "Applications/Calculator.app"):
        (home / folder).mkdir(parents=True)
    for name in ("notes.txt", "Projects/budget.csv"):
        (home / name).write_text("text")
    around = Surroundings(
        folders=(home,),
        data_dir=home / "data",
        search_chats=lambda _: [],
        runner=MacRunner(),  # type: ignore[arg-type]
        platform="darwin",
        home=home,
    )
    return [tool for tool in builtin_tools(around) if not tool.missing]


def found(relevance: Relevance, said: str) -> list[str]:
    return [tool.name for tool in relevance.find(said)][:5]


def test_requests_find_their_tool_and_chats_find_none(tools: list[Tool]) -> None:
    relevance = Relevance(tools)
    missed = [(said, name) for said, name in REQUESTS if name not in found(relevance, said)]
    offered = [(said, found(relevance, said)) for said in CHATS if found(relevance, said)]
    assert len(missed) <= (1 - RECALL) * len(REQUESTS), missed
    assert len(offered) <= (1 - RESTRAINT) * len(CHATS), offered


def test_the_right_tool_mostly_stands_first(tools: list[Tool]) -> None:
    relevance = Relevance(tools)
    first = [found(relevance, said)[:1] == [name] for said, name in REQUESTS]
    assert sum(first) >= 0.88 * len(first)


def test_the_sentences_that_matter_most_offer_nothing(tools: list[Tool]) -> None:
    relevance = Relevance(tools)
    for said in ("tell me a story about a dragon", "who wrote Hamlet?", "thanks!", "", " ", "?"):
        assert found(relevance, said) == []


def a_tool(name: str = "do_it", **more: object) -> Tool:
    return Tool(name, "Act.", {}, lambda arguments, cancel: "", **more)  # type: ignore[arg-type]


def test_a_tool_alone_is_found_as_well_as_one_of_many() -> None:
    tool = a_tool("water_plants", keywords=("plants",))
    assert Relevance([tool]).find("please water the plants") == [tool]
    assert Relevance([tool]).find("please tell me of the moon") == []


def test_keywords_may_be_phrases_and_patterns() -> None:
    phrase, pattern = a_tool("one", keywords=("how far",)), a_tool("two", keywords=("<file>",))
    everyday = a_tool("three", keywords=("how many",))
    relevance = Relevance([phrase, pattern, everyday])
    assert relevance.find("how far is the moon") == [phrase]
    assert relevance.find("far away, on the moon") == []
    assert relevance.find("look at a.txt") == [pattern]
    assert relevance.find("how many moons are there") == []


def test_a_pattern_of_most_examples_counts_and_that_of_one_does_not() -> None:
    sums = a_tool("sums", examples=(Example("3*17", {}), Example("what is 4 + 4", {})))
    other = a_tool(
        "other", examples=(Example("log 71 kg", {}), Example("log in", {}), Example("log", {}))
    )
    relevance = Relevance([sums, other])
    assert relevance.find("(2+3)*7") == [sums]
    assert relevance.find("5 kg") == []


def test_live_values_are_asked_for_only_where_something_hints_at_the_tool() -> None:
    asked = []

    def names() -> list[str]:
        asked.append(1)
        return ["Morning Routine", "Log Weight"]

    tool = a_tool("run_shortcut", live={"name": names})
    relevance = Relevance([tool])
    assert relevance.find("tell me of the moon") == [] and not asked
    assert relevance.find("run my morning routine") == [tool] and asked


def test_live_values_that_fail_are_no_error() -> None:
    tool = a_tool("run_shortcut", live={"name": lambda: [][0]})
    assert Relevance([tool]).find("run something") == []


def test_words_are_compared_without_their_endings() -> None:
    assert words("Timers timer timing, notes: NOTE's") == ["timer", "timer", "tim", "note", "note"]
    assert (
        len(telling_words("Morning routine.txt") & telling_words("run the MORNING routines")) == 2
    )
    assert not telling_words("the")


def test_no_message_keeps_it_busy(tools: list[Tool]) -> None:
    relevance = Relevance(tools)
    for said in (" " * 10**6, "a-" * 10**5, "1 " * 10**5, "\ufdfa" * 10**5, "please " * 10**5):
        started = time.perf_counter()
        relevance.find(said)
        assert time.perf_counter() - started < 1
