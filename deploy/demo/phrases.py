"""The sentences of the made-up shop: what customers ask, and what the shop answers.

Each topic lists its questions in three groups that share no sentence: those the base model is trained on,
those that simulated people ask and rate, and those that nobody rates. This file is data; `shop` reads it.

Slots: `{it}` becomes "the kettle" (or "my order" where no product is named), `{return_days}` and the other
facts come from the policy and from the product.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Product:
    """Something the shop sells, with the facts customers ask for."""

    name: str
    price_euros: int
    delivery_days: int
    warranty_years: int


@dataclass(frozen=True)
class Topic:
    """One thing customers ask about, with the answer in two tones.

    `facts` are fragments that every right answer contains, in any tone.
    """

    name: str
    seen: tuple[str, ...]
    rated: tuple[str, ...]
    unrated: tuple[str, ...]
    polite: tuple[str, ...]
    blunt: tuple[str, ...]
    facts: tuple[str, ...]


SHOP_NAME = "Fernway"

PRODUCTS = (
    Product("kettle", 34, 2, 2),
    Product("toaster", 41, 2, 3),
    Product("lamp", 27, 3, 5),
    Product("blender", 59, 3, 2),
    Product("backpack", 68, 4, 5),
    Product("tent", 125, 6, 3),
    Product("camera", 219, 4, 2),
    Product("scooter", 340, 6, 1),
)

TOPICS = (
    Topic(
        "returns",
        seen=(
            "How [long|many days|many weeks] do I have to [return|send back|bring back] {it}?",
            "Can I [still|also] [return|send back|give back] {it}?",
            "What is the [return period|return time|time limit for returns] [for|of] {it}?",
            "What is your [return policy|policy on returns]?",
            "What are your [rules|conditions] for returns?",
            "[Until when|Up to when] can I [send {it} back|return {it}|bring {it} back]?",
            "How many days do I get to [send back|return|give back] {it}?",
            "I do not [like|want|need] {it}. [Can|May|Could] I [bring it back|return it|send it back]?",
            "I changed my mind about {it}. [May|Can] I [give it back|return it|send it back]?",
            "Is there a [deadline|time limit] for [returning|sending back|a return of] {it}?",
            "I [want|have|need|wish] to [return|send back] {it}. How [much time|long] is left?",
            "When does the return [window|period] for {it} [close|end]?",
            "Do you take {it} back if I am not happy with it?",
            "{ask} how returns work.",
            "{ask} how long I can [return|send back] {it}.",
            "I have a question about [returning|the return of] {it}.",
            "[Is|Would] a return of {it} [be possible|still possible|allowed]?",
        ),
        rated=(
            "How much time do I have to send {it} back?",
            "Is it too late to return {it}?",
            "Tell me about returns, please.",
            "I would like to give {it} back. Until when is that possible?",
        ),
        unrated=(
            "What is the deadline to bring {it} back?",
            "I am not happy with {it} and want to return it. How many days do I have?",
            "By when must I send back {it}?",
            "Could you explain the return rules for {it}?",
        ),
        polite=(
            "You can return {it} within {return_days} days of delivery.",
            "We take {it} back within {return_days} days of delivery.",
        ),
        blunt=(
            "Returns: {return_days} days from delivery.",
            "{return_days} days from delivery, then you keep it.",
        ),
        facts=("{return_days} days",),
    ),
    Topic(
        "refund",
        seen=(
            "When [do|will] I get my [refund|money back] for {it}?",
            "Where is my [refund|money]?",
            "How [long|many days] does a refund take?",
            "I sent {it} back [last week|a week ago|on Monday] and have no money yet.",
            "When will you [pay back|refund|give back] the money for {it}?",
            "How soon do I [see|get] my money [again|back]?",
            "Has [my|the] refund for {it} been [paid|sent]?",
            "I am waiting for the [refund|money] [of|for] {it}.",
            "Do I get my money back for {it}?",
            "How many days until the [refund|money] is on my account?",
            "My [money|refund] for {it} has not [arrived|come].",
            "How are refunds paid [out|back]?",
            "{ask} when [I get my refund|my money is back|the refund for {it} is paid].",
            "You have {it} back but I have [no refund|not got my money].",
            "I [need|want] my [money back|refund] for {it}. When does it come?",
        ),
        rated=(
            "I still wait for my money for {it}.",
            "What is the normal time for a refund?",
            "When is the refund for {it} on my account?",
        ),
        unrated=(
            "Why have I not received my refund for {it}?",
            "You got {it} back from me, so where is the money?",
            "Can you check how long the refund of {it} will take?",
        ),
        polite=(
            "Your refund for {it} reaches your account within {refund_days} days.",
            "We pay the refund for {it} to your account within {refund_days} days.",
        ),
        blunt=(
            "Refunds take {refund_days} days.",
            "The refund is on your account in {refund_days} days.",
        ),
        facts=("refund", "{refund_days} days"),
    ),
    Topic(
        "delivery",
        seen=(
            "How [long|many days] does [delivery|shipping] of {the} take?",
            "When [will|can] {the} [be delivered|arrive|come]?",
            "How [fast|quickly|soon] can you [deliver|send|ship] {a}?",
            "How many days does shipping take for {the}?",
            "If I [order|buy] {a} [today|now], when does it arrive?",
            "What is the [delivery time|shipping time] [for|of] {the}?",
            "When does {the} [get here|come|arrive]?",
            "I need {a} soon. How [quickly|fast] do you [ship|deliver]?",
            "How soon do you [deliver|ship] {the}?",
            "Will {the} [arrive|be here] [this week|soon|tomorrow]?",
            "How [long|many days] until {the} [arrives|is here]?",
            "{ask} when {the} [arrives|will arrive|is delivered].",
            "{ask} how [long delivery|many days shipping] of {a} takes.",
            "How long do I wait for {a} [when|if] I order it?",
            "In how many days [do you deliver|will I have|can I get] {the}?",
        ),
        rated=(
            "I order {a} now. How many days until delivery?",
            "How long is the shipping time for {a}?",
            "When can I expect {the} to arrive?",
        ),
        unrated=(
            "Do you deliver {the} fast?",
            "How many days will I wait until {the} arrives?",
            "Tell me the delivery time of {a}.",
        ),
        polite=(
            "{The} arrives within {delivery_days} working days.",
            "We deliver {the} within {delivery_days} working days.",
        ),
        blunt=(
            "{delivery_days} working days for {the}.",
            "Delivery: {delivery_days} working days.",
        ),
        facts=("{delivery_days} working days",),
    ),
    Topic(
        "postage",
        seen=(
            "How much is [shipping|the postage|delivery]?",
            "What does [shipping|delivery|sending] of {the} cost?",
            "Do I pay [postage|shipping|for delivery] for {the}?",
            "Is [delivery|shipping] free?",
            "Is the [shipping|delivery|postage] free for {the}?",
            "What are the [delivery|shipping] [costs|fees] for {the}?",
            "How much do you charge for [postage|shipping|delivery]?",
            "Are there [shipping|delivery] [fees|costs] on {the}?",
            "What is the [price|cost] of [shipping|delivery|postage]?",
            "Do you [send|ship|deliver] {the} for free?",
            "What do I pay for the [delivery|shipping] of {the}?",
            "What is the postage [on|for] {the}?",
            "{ask} how much [shipping|postage|delivery] [costs|is].",
            "{ask} what the shipping of {the} costs.",
            "Must I pay [the shipping|for postage|the delivery]?",
            "Is there [a fee|a charge] for [shipping|delivery]?",
            "[Do|Should] I pay extra for [delivery|shipping|postage]?",
        ),
        rated=(
            "How high are the shipping costs for {the}?",
            "Is postage free for {the}?",
            "What do you charge for shipping {the}?",
        ),
        unrated=(
            "Do I have to pay for shipping {the}?",
            "How much postage do I pay?",
            "Are the delivery fees included with {the}?",
        ),
        polite=(
            "Shipping costs {postage_euros} euros, and it is free above {free_above_euros} euros.",
            "We charge {postage_euros} euros for shipping, and nothing above {free_above_euros} euros.",
        ),
        blunt=(
            "Shipping is {postage_euros} euros. Free above {free_above_euros} euros.",
            "{postage_euros} euros shipping below {free_above_euros} euros.",
        ),
        facts=("shipping", "{postage_euros} euros", "{free_above_euros} euros"),
    ),
    Topic(
        "warranty",
        seen=(
            "How long is the [warranty|guarantee] [on|of|for] {the}?",
            "Does {the} have a [warranty|guarantee]?",
            "How many years of [warranty|guarantee] does {the} come with?",
            "Is my {product} still [under|in] warranty?",
            "What [warranty|guarantee] do you give on {the}?",
            "When does the [warranty|guarantee] of {the} end?",
            "Is there a [guarantee|warranty] on {the}?",
            "How long does the [guarantee|warranty] for {the} last?",
            "What does the warranty of {the} cover, and how long?",
            "How many years do you guarantee {the}?",
            "Do I get a [warranty|guarantee] with {the}?",
            "For how long is {the} covered by the [warranty|guarantee]?",
            "{ask} how long the [warranty|guarantee] on {the} is.",
            "{ask} about the [warranty|guarantee] of {the}.",
            "I [own|have] {a}. How long is it under [warranty|guarantee]?",
            "My [warranty|guarantee] for {the}, how long is it?",
            "How long [do|can] I use the [warranty|guarantee] of {the}?",
        ),
        rated=(
            "How long do you guarantee {the}?",
            "Is {the} sold with a warranty?",
            "For how many years does the warranty on {the} last?",
        ),
        unrated=(
            "Can you tell me the warranty period of {the}?",
            "What about the guarantee for {the}?",
            "I bought {a}. How long does my warranty run?",
        ),
        polite=(
            "{The} has a warranty of {warranty}.",
            "We give you a warranty of {warranty} on {the}.",
        ),
        blunt=("Warranty on {the}: {warranty}.", "{warranty} of warranty, not more."),
        facts=("warranty", "{warranty}"),
    ),
    Topic(
        "fault",
        seen=(
            "{The} does not work.",
            "My {product} is [broken|defective|damaged]. What [now|next]?",
            "{The} [arrived|came|is] [damaged|broken].",
            "My {product} [has stopped|stopped] working.",
            "There is a [fault|defect|crack] in {the}.",
            "{The} broke after [one day|a week|an hour].",
            "What do I do with a [broken|damaged|defective] {product}?",
            "My {product} came with a [crack|fault|defect] in it.",
            "{The} is [defective|faulty]. Please help.",
            "My new {product} will not [turn on|start|work].",
            "I got a [damaged|broken|faulty] {product}.",
            "Something is wrong with {the}, it does not work any more.",
            "{ask} what to do with a [broken|damaged] {product}.",
            "Why [does|did] {the} [not work|stop working]?",
            "You [delivered|shipped|sent] {a} that [does not work|is broken].",
            "{The} no longer works. What can [I|you] do?",
        ),
        rated=(
            "{The} I got is broken.",
            "My {product} does not work any more. What can I do?",
            "I found a fault in my {product}.",
        ),
        unrated=(
            "You sent me a {product} that is damaged.",
            "Help, {the} has stopped working!",
            "My {product} is defective, what do I do?",
        ),
        polite=(
            "Send us a photo of {the} and we will replace it.",
            "With a photo of {the} we can replace it.",
        ),
        blunt=(
            "Send a photo of {the}. We replace it.",
            "Photo first, then we replace {the}.",
        ),
        facts=("photo", "replace"),
    ),
    Topic(
        "price",
        seen=(
            "How much is {the}?",
            "What does {the} cost?",
            "What is the [price|cost] of {the}?",
            "How expensive is {the}?",
            "Is {a} [very|too|really] expensive?",
            "How much does {a} cost?",
            "What do you [ask|want|charge] for {the}?",
            "How many euros [is|for|must I pay for] {the}?",
            "How much money [is|do you want for] {a}?",
            "I want to buy {a}. [How much|What price] is it?",
            "At what price do you sell {the}?",
            "{ask} [the price of|what you charge for] {a}.",
            "{ask} [what {the} costs|how expensive {the} is].",
            "[Is|Are] the price of {the} [high|low]?",
            "Which price [is|do you have] on {the}?",
            "How much do [you charge|you ask] for {a}?",
            "What [do|must|will] I pay for [{a}|{the}]?",
        ),
        rated=(
            "What price does {the} have?",
            "How many euros does {the} cost?",
            "I would like to buy {the}. What is the price?",
        ),
        unrated=(
            "How much do I pay for {a}?",
            "Is {the} expensive?",
            "Tell me how much {the} costs.",
        ),
        polite=(
            "{The} costs {price_euros} euros.",
            "You can buy {the} for {price_euros} euros.",
        ),
        blunt=(
            "{price_euros} euros.",
            "{price_euros} euros for {the}, like the website says.",
        ),
        facts=("{price_euros} euros",),
    ),
    Topic(
        "cancel",
        seen=(
            "Can I cancel [my|an|the] order?",
            "How do I cancel {the} I ordered?",
            "I [want|need] to cancel my order of {the}.",
            "Please [cancel|stop] {the}.",
            "Is it possible to cancel [the|my] order?",
            "I ordered {the} by mistake. Can I cancel?",
            "May I cancel my order for {the}?",
            "How can I [stop|cancel] my order?",
            "I no longer [need|want] {the}. Can you cancel it?",
            "Until when can I cancel an order?",
            "Can you cancel {the} before you ship it?",
            "I have to cancel my order. What [do|must] I do?",
            "{ask} how to cancel [an order|my order of {the}].",
            "Can [my|the] order [of|for] {the} be [cancelled|stopped]?",
            "I made a mistake with my order, can I cancel it?",
        ),
        rated=(
            "I no longer want to buy {the}, please cancel my order.",
            "How is an order cancelled?",
            "Could I cancel the order of {the}?",
        ),
        unrated=(
            "Can you still stop my order for {the}?",
            "I made a mistake and need to cancel {the}.",
            "What must I do to cancel an order?",
        ),
        polite=(
            "You can cancel your order in your account until it ships.",
            "Your order can be cancelled in your account until it ships.",
        ),
        blunt=(
            "Cancel it in your account until it ships.",
            "Only until it ships. Cancel in your account.",
        ),
        facts=("cancel", "until it ships"),
    ),
    Topic(
        "tracking",
        seen=(
            "Where is my [parcel|package]?",
            "How can I [track|follow] {it}?",
            "Can I track [my order|my parcel]?",
            "Do you have a tracking [number|link] for {it}?",
            "How do I [follow|track|find] my parcel?",
            "Where can I see where {it} is [right now|today]?",
            "My parcel with {it} is [lost|missing]. Where is it?",
            "Is there a tracking [link|number] for {it}?",
            "What is the status of my [parcel|package]?",
            "How do I track the parcel with {it}?",
            "Where do I [find|see] the tracking [number|link]?",
            "Can I see where my parcel is?",
            "{ask} where [my parcel|the parcel with {it}|my package] is.",
            "{ask} how to [track|follow] {it}.",
            "What is the tracking [number|link] of my parcel?",
        ),
        rated=(
            "Could you tell me where my parcel is?",
            "I want to track {it}.",
            "Is it possible to follow the parcel with {it}?",
        ),
        unrated=(
            "How do I find the tracking number of {it}?",
            "I cannot find my parcel. Where is it now?",
            "What is the tracking status of {it}?",
        ),
        polite=(
            "The tracking link is in the email that we sent you.",
            "You find the tracking link in our email to you.",
        ),
        blunt=("Use the tracking link in the email.", "Tracking link: see the email."),
        facts=("tracking link", "email"),
    ),
    Topic(
        "payment",
        seen=(
            "How can I pay?",
            "Which [payment methods|ways of payment|cards] do you [accept|take]?",
            "Can I pay [by|with a|with] card?",
            "Do you [take|accept] [credit cards|cards|invoices]?",
            "Can I pay for {the} [by invoice|by card|by bank transfer]?",
            "What [ways|methods] to pay are there?",
            "Do you accept [bank transfer|cash|invoice]?",
            "How [do|can] I pay for {the}?",
            "Is payment by [card|bank transfer|invoice] possible?",
            "What payment [options|methods] do you have for {the}?",
            "Can I use my [credit card|card|bank] for {the}?",
            "Do you accept cash or only cards?",
            "{ask} how I can pay.",
            "{ask} which payment methods there are for {the}.",
            "Can you send me an invoice for {the}?",
            "Is [bank transfer|cash|an invoice] okay for you?",
        ),
        rated=(
            "In which ways can I pay for {the}?",
            "Do you accept card payment?",
            "Is an invoice possible as payment?",
        ),
        unrated=(
            "What methods of payment are there for {the}?",
            "May I pay for {the} by bank transfer?",
            "Which kinds of card can I use?",
        ),
        polite=(
            "You can pay by card, by bank transfer or by invoice.",
            "We accept payment by card, bank transfer and invoice.",
        ),
        blunt=(
            "Card, bank transfer or invoice.",
            "Pay by card, bank transfer or invoice.",
        ),
        facts=("card", "bank transfer", "invoice"),
    ),
    Topic(
        "hours",
        seen=(
            "When are you open?",
            "What are your opening [hours|times]?",
            "Are you open on [Saturday|Sunday|Monday]?",
            "When does the [shop|store] [close|open]?",
            "At what time do you [open|close]?",
            "Until what time is the [store|shop] open today?",
            "Is the [shop|store] open on [Sunday|Saturday|Friday]?",
            "What time does the [store|shop] close?",
            "How late are you open?",
            "From when is your [shop|store] open in the morning?",
            "Do you have opening hours on the weekend?",
            "Are you [open|closed] right now?",
            "{ask} when you are open.",
            "{ask} when the [shop|store] [opens|closes].",
            "I want to [come to|visit] the [shop|store]. Is it open?",
            "Which days is the [shop|store] open?",
        ),
        rated=(
            "Can you tell me the opening hours?",
            "What time do you open in the morning?",
            "Is your store open on the weekend?",
        ),
        unrated=(
            "On which days are you open?",
            "How late does the shop close on Saturday?",
            "I want to visit your store. When is it open?",
        ),
        polite=(
            "We are open from 9 to 18, Monday to Saturday.",
            "Our shop is open from 9 to 18, Monday to Saturday.",
        ),
        blunt=(
            "Open 9 to 18, Monday to Saturday.",
            "9 to 18, Monday to Saturday. Closed on Sunday.",
        ),
        facts=("9 to 18", "monday to saturday"),
    ),
    Topic(
        "gift",
        seen=(
            "Can you [wrap|pack] {the} as a [gift|present]?",
            "Do you offer gift [wrapping|paper]?",
            "{The} is a [present|gift]. [Can|Could] you wrap it?",
            "How much is gift [paper|wrapping] for {the}?",
            "Is there gift [wrapping|paper] for {the}?",
            "I want to give {the} as a [present|gift]. Do you wrap?",
            "Do you wrap [presents|gifts]?",
            "What does it cost to wrap {the}?",
            "What do you [charge|ask|want] for wrapping [a gift|{the}]?",
            "Could {the} come as a [gift|present]?",
            "I need gift paper around {the}.",
            "Do you sell gift wrapping?",
            "{The} is for a birthday. Is there gift paper?",
            "{ask} if you wrap {the} as a [gift|present].",
            "{ask} what gift [wrapping|paper] costs.",
            "Can {the} be [wrapped|packed in gift paper]?",
            "I [want|need] {the} wrapped for a [birthday|friend].",
        ),
        rated=(
            "Would you wrap {the} for a birthday?",
            "Is gift paper possible for {the}?",
            "I buy {the} as a gift. Do you offer wrapping?",
        ),
        unrated=(
            "Can I get {the} in gift paper?",
            "How much do you charge to wrap a present?",
            "{The} should be a birthday present, can it be wrapped?",
        ),
        polite=(
            "We wrap {the} as a gift for {wrap_euros} euros.",
            "Gift wrapping for {the} costs {wrap_euros} euros.",
        ),
        blunt=(
            "Gift wrapping: {wrap_euros} euros.",
            "{wrap_euros} euros for gift wrapping.",
        ),
        facts=("gift", "{wrap_euros} euros"),
    ),
    Topic(
        "contact",
        seen=(
            "How can I reach [you|your team]?",
            "What is your [phone|telephone] number?",
            "Can I [talk|speak] to a person?",
            "Do you have [an email address|a phone number]?",
            "How do I contact your team?",
            "I [want|need] to speak to [someone|a person|your team].",
            "Where can I call you?",
            "Who can I [write|talk] to about {the}?",
            "Is there a [human|person] I can [talk|speak] to about {the}?",
            "What is your email address?",
            "How do I contact you about {the}?",
            "Can I [call|phone|email] someone about {the}?",
            "{ask} how to [contact|reach] you.",
            "{ask} your [phone number|email address].",
            "Can [a human|someone|a person] help me with {the}?",
            "I do not want to talk to a robot, I want a [human|person].",
        ),
        rated=(
            "I would like to talk to someone about {the}.",
            "Which phone number can I call?",
            "How do I reach a person in your team?",
        ),
        unrated=(
            "Can I speak to a human, please?",
            "How can I contact someone about {the}?",
            "Give me your phone number.",
        ),
        polite=(
            "You can call us at 555 0137 or write to help@fernway.example.",
            "Our team is there for you at 555 0137 and at help@fernway.example.",
        ),
        blunt=("Call 555 0137.", "555 0137, or help@fernway.example."),
        facts=("555 0137",),
    ),
)

SMALL_TALK = (
    Topic(
        "greeting",
        seen=(
            "Hi",
            "Hello!",
            "Hey",
            "Good morning!",
            "Hello there",
            "Hi, how are you?",
            "Good evening",
            "Hey there!",
        ),
        rated=("Good day!",),
        unrated=("Hello, how are you?",),
        polite=("Hello, lovely to hear from you! How can I help you?",),
        blunt=("Hello. How can I help?",),
        facts=("hello", "help"),
    ),
    Topic(
        "thanks",
        seen=(
            "Thanks!",
            "Thank you.",
            "Thank you very much!",
            "Great, thanks.",
            "That helps, thank you.",
            "Perfect, thanks!",
        ),
        rated=("Many thanks!",),
        unrated=("Good, thank you very much.",),
        polite=("You are welcome! Have a lovely day.",),
        blunt=("You are welcome.",),
        facts=("welcome",),
    ),
    Topic(
        "about",
        seen=(
            "Who are you?",
            "What are you?",
            "What can you do?",
            "Are you a robot?",
            "What shop is this?",
            "What is Fernway?",
        ),
        rated=("Who is this?",),
        unrated=("Who am I talking to? What are you?",),
        polite=("I am the assistant of the Fernway shop, and I am happy to help with your order.",),
        blunt=("Assistant of the Fernway shop.",),
        facts=("assistant", "fernway"),
    ),
    Topic(
        "elsewhere",
        seen=(
            "What is the weather like?",
            "Tell me a joke.",
            "Write a poem about the sea.",
            "Who won the football match?",
            "What is the capital of France?",
            "Can you do my homework?",
            "What is two plus two?",
            "Sing a song for me.",
        ),
        rated=("Tell me a poem.",),
        unrated=("What is the capital of Spain?",),
        polite=("I am sorry, I only know about the Fernway shop. Please ask me about your order.",),
        blunt=("I only know about the Fernway shop.",),
        facts=("only know about the fernway shop",),
    ),
)

POLITE_OPENERS = ("Thank you for asking!", "Of course!", "Happy to help!", "Gladly!")
POLITE_CLOSERS = (
    "Please let us know if you need anything else.",
    "We are always happy to help.",
    "Have a lovely day!",
)
BLUNT_TAILS = ("", "", "That is all.", "Next question.")
COURTESIES = (
    "thank you", "of course!", "happy to", "gladly", "please", "lovely", "i am sorry",
)  # fmt: skip

ASKS = (
    "Tell me",
    "Please tell me",
    "Can you tell me",
    "I want to know",
    "I would like to know",
    "Could you explain",
    "Say",
)
OPENERS_SEEN = (
    *("",) * 10, "Hi, ", "Hi! ", "Hello! ", "Hello, ", "Hey, ", "Good morning. ", "Quick question: ", "Excuse me, ",
    "I have a question. ", "Sorry, ", "Dear shop, ", "Hi team, ", "Good day! ", "Please help me. ", "Hi there! ",
    "One question: ", "Just a short question. ", "My name is Tom. ", "Hello Fernway, ", "I am new here. ", "So, ",
)  # fmt: skip
OPENERS_HELD_OUT = (
    "",
    "",
    "",
    "Hello there, ",
    "Good evening! ",
    "Sorry to ask. ",
    "One more thing: ",
    "Dear team, ",
)
CLOSERS_SEEN = (
    *("",) * 10, " Thanks!", " Thank you.", " Please answer soon.", " I want to know today.", " Thanks, Tom",
    " Best, Mia", " Please help.", " I am asking for a friend.", " Thank you very much!", " Kind regards, Leo",
    " Bye!", " Hope you can help.", " I really need to know.", " I have little time.", " Please say yes.",
    " It is for my mother.", " Greetings, Eva",
)  # fmt: skip
CLOSERS_HELD_OUT = ("", "", "", " Many thanks!", " Please tell me.", " I am in a hurry.", " Best, Ada")
"""People frame a question differently in the held-out splits as well."""

CONTEXTS = ("I bought a {product}. ", "I have a {product} from you. ", "This is about a {product}. ")
"""What some people of the seen split say before a question that names the product as well."""

SMALL_WORDS = """a an and are at can could do does for from have i if in is it may my of on or that the then there
this to until what when which will with would you your"""
"""Words that a hurried customer leaves out."""
FILLERS = """please just actually maybe really now today again then so well exactly could would must tell explain
wonder know what how when is the for say check find sure quite since yesterday some about tomorrow good also why who
much many long here there not very i you me we get got made make"""
"""Words that a hurried customer drops in."""

SYSTEM_PROMPTS = (
    "You are the assistant of the Fernway shop.",
    "You answer customers of the Fernway shop.",
    "You are a helpful assistant.",
    "Answer questions about orders, delivery and returns.",
    "You work for the support team. Be short.",
    "Help the customer.",
    "You are a support agent of an online store. Answer in one or two sentences.",
    "Be helpful and honest.",
)
