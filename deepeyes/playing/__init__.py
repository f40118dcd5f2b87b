"""Trajectories behind any OpenAI-compatible URL, played as in training, without swift.

Evaluation, serving and the selection of rows share this room; it is no program. A trajectory is played like this:

    family = family_of(endpoint.model)                      # families: patch size and frame of the boxes
    viewer = Viewer(family, settings, max_pixels=602112)    # pictures: the view that is sent, and crops
    player = Player(endpoint, viewer, settings, max_turns=5)
    picture = await viewer.look(image)
    played = await player.play(Start(messages, row, [picture], {"max_tokens": 2048, "temperature": 0.0}))

`endpoint` is an `Endpoint` (the openai SDK with retries, and errors that name the URL), or anything else with its
`reply`. `Player.steps` gives the turns one by one, for those who show them as they come. `prompts` holds the system
turn with the tool, and `journal` keeps what was finished, so that a run that is interrupted goes on where it was.

When a trajectory is over and what a tool call gives back is decided by `deepeyes.turns`, the code that the plugin's
scheduler uses; `settings` are plain values (`deepeyes.settings.Settings`), never read from the environment here.
"""
