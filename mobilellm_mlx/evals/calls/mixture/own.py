"""Sentences of ours for tools of the house of which the data has few or none to train with.

All ways to say some things stand on the test's side. A tool that is on offer in training and never
right would be learned as never right, so these say the same in words that no template of the test
has; a test lets hassil look for them there.
"""

from __future__ import annotations

OWN: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "HassBroadcast": (
        (),
        (
            "tell everyone [at home] [that] {message}",
            "let everybody [in the house] know [that] {message}",
            "say {message} on all [the] speakers",
            "make an announcement [that says] {message}",
            "call out {message} in every room",
            "inform the [whole] family that {message}",
            "send the whole house a message [that says] {message}",
        ),
    ),
    "HassListRemoveItem": (
        ("todo",),
        (
            "take {todo_list_item:item} off [of] (my|the) {name} [list]",
            "(strike|drop|erase) {todo_list_item:item} from (my|the) {name} [list]",
            "I no longer need {todo_list_item:item} on (my|the) {name} [list]",
            "get rid of {todo_list_item:item} on (my|the) {name} [list]",
            "{todo_list_item:item} should not be on (my|the) {name} [list] any more",
        ),
    ),
    "HassVacuumReturnToBase": (
        ("vacuum",),
        (
            "send [the|my] {name} (home|back|back to its dock|to its base)",
            "{name} go (home|back to your dock|to your base)",
            "dock [the|my] {name}",
            "bring [the|my] {name} (home|back to its charger)",
            "[the|my] {name} should go back to its (base|dock|charger)",
            "that is enough {name} go to your charger",
        ),
    ),
    "HassVacuumStart": (
        ("vacuum",),
        (
            "let the vacuum do the {floor} floor",
            "send the vacuum through the {floor} floor",
            "start vacuuming (on|across) the {floor} floor",
            "(let|have) [the|my] {name} (clean|do its round|get to work)",
            "[the|my] {name} (should|can) (clean|start) [now]",
        ),
    ),
    "HassLawnMowerStartMowing": (
        ("lawn_mower",),
        (
            "(cut|trim) the (grass|lawn)",
            "let [the|my] {name} cut the (grass|lawn)",
            "get the mower going",
            "the (grass|lawn) needs (cutting|a cut)",
            "send [the|my] {name} out to (mow|cut the grass)",
        ),
    ),
    "HassGetCurrentDate": (
        (),
        (
            "which date is (it|today)",
            "(tell|give) me the date [of today]",
            "what day of the month is it",
            "do you know (today's date|the date [today])",
            "I need today's date",
        ),
    ),
    "HassGetCurrentTime": (
        (),
        (
            "(tell|give) me the [current] time",
            "do you (know|have) the time",
            "how late is it [now]",
            "can you tell me what time it is",
            "I need (to know the|the) [exact] time",
        ),
    ),
    "HassListAddItem": (
        ("todo",),
        (
            "(write|note) {todo_list_item:item} on (my|the) {name} [list]",
            "{todo_list_item:item} (goes|belongs) on (my|the) {name} [list]",
            "I (want|need) {todo_list_item:item} on (my|the) {name} [list]",
            "include {todo_list_item:item} in (my|the) {name} [list]",
        ),
    ),
    "HassListCompleteItem": (
        ("todo",),
        (
            "(tick|cross) off {todo_list_item:item} on (my|the) {name} [list]",
            "mark {todo_list_item:item} as done on (my|the) {name} [list]",
            "{todo_list_item:item} is done on (my|the) {name} [list]",
            "I have finished {todo_list_item:item} from (my|the) {name} [list]",
        ),
    ),
    "HassShoppingListAddItem": (
        (),
        (
            "we (need|are out of) {shopping_list_item:item}",
            "I (need|have) to buy {shopping_list_item:item}",
            "(write|note) {shopping_list_item:item} on (my|the) [shopping] list",
            "{shopping_list_item:item} (goes|belongs) on the shopping list",
            "remind me to buy {shopping_list_item:item}",
        ),
    ),
    "HassShoppingListCompleteItem": (
        (),
        (
            "(tick|cross) off {shopping_list_item:item} on (my|the) [shopping] list",
            "mark {shopping_list_item:item} as bought [on (my|the) shopping list]",
            "I [already] (bought|got) {shopping_list_item:item}",
            "take {shopping_list_item:item} off (my|the) [shopping] list",
        ),
    ),
    "HassMediaPlayerMute": (
        ("media_player",),
        (
            "silence [the|my] {name}",
            "no sound (on|from) [the|my] {name} [please]",
            "make [the|my] {name} (silent|quiet)",
            "be silent",
        ),
    ),
    "HassMediaPlayerUnmute": (
        ("media_player",),
        (
            "let me hear [the|my] {name} again",
            "bring the sound of [the|my] {name} back",
            "[the|my] {name} should have sound again",
            "give me the sound back",
        ),
    ),
    "HassCancelAllTimers": (
        (),
        (
            "get rid of (all [my] timers|every timer)",
            "no more timers [please]",
            "end every [single] timer [in the {area}]",
            "I do not need any [of the] timers any more",
        ),
    ),
}
"""By intent: the domains that a name in them may be of, and templates in the data's notation."""
