"""Tab of the page that answers questions about pictures, and draws by words."""

from unitok_jax.demo import chatting, draw_tab, drawing, fields, refusals

CHAT = """**Ask** about the uploaded picture, or without one; the conversation goes on until it
is begun anew. Another picture is shown with the next question.

**Draw** {count} pictures of the words instead. New settings and longer conversations take longer
the first time."""
KEPT = 3600  # seconds that the conversation of a visitor who left is kept


def add(upload, chat: chatting.Chat) -> None:
    """Adds the tab to the page that is being built.

    Args:
      upload: the field of the uploaded picture.
      chat: of a model with a tokenizer.
    """
    import gradio as gr

    with gr.Tab("Chat"):
        gr.Markdown(CHAT.format(count=drawing.PICTURES))
        # What was said stays on the server: nobody can put words into the model's mouth.
        conversation = gr.State(chatting.Conversation(), time_to_live=KEPT)
        shown = gr.Chatbot(
            label="Conversation",
            elem_id="said",
            height=320,
            render_markdown=False,  # what a model says is text
            buttons=[],
        )
        words = gr.Textbox("What is in the picture?", label="Words", elem_id="words")
        with gr.Row():
            asking = gr.Button("Ask", variant="primary", elem_id="ask")
            anew = gr.Button("New conversation", elem_id="chat_anew")
            button = gr.Button("Draw", elem_id="chat_draw")
        settings = draw_tab.settings(chat.model, guided=True)
        drawn = draw_tab.gallery("chat_drawn")
        facts = gr.Markdown(elem_id="chat_facts")

    # A running event has the conversation itself, no copy: it can be begun anew meanwhile.
    def ask(conversation, first, words):
        conversation.ask(chat, first, words)
        return conversation, chatting.messages_of(conversation.said)

    def begin(conversation):
        conversation.begin()
        return conversation, []

    def draw(words, *values):
        return chat.draw(words, drawing.Settings(*values))

    asking.click(
        refusals.shown(ask),
        [conversation, upload, words],
        [conversation, shown],
        api_name="ask",
        **draw_tab.WORK,
    )
    anew.click(begin, conversation, [conversation, shown], api_name="begin", **fields.WORK)
    button.click(
        refusals.shown(draw), [words, *settings], [drawn, facts], api_name="draw_words",
        **draw_tab.WORK,
    )  # fmt: skip
