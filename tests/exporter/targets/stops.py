"""An app that one of its own hooks stops while it starts, such as one that finds that there is nothing to do."""

from flowrra import Flowrra

app = Flowrra()


@app.task(name="nap")
async def nap() -> None: ...


app.on_startup(app.stop)
