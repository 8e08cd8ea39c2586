"""Texts that want to be more than text: what people and models may write into any page of ours.

Each sets `window.hacked`, opens a dialog, or asks another server, if any page lets it.
"""

MARK = "hacked"

CORPUS = (
    "<script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    "<svg/onload=window.hacked=1>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='window.hacked=1' autofocus onfocus='window.hacked=1",
    "</textarea><script>window.hacked=1</script>",
    "</title><script>window.hacked=1</script>",
    '<a href="javascript:window.hacked=1">x</a>',
    '<iframe srcdoc="<script>parent.hacked=1</script>"></iframe>',
    "{{constructor.constructor('window.hacked=1')()}}{{7*7}}{% include '/etc/passwd' %}",
    "<div hx-get=/x hx-trigger=load hx-on::load=window.hacked=1 data-hx-get=/x></div>",
    "<b>bold</b> & &lt;b&gt; \u202egnp.exe \u0085 --></style><style>*{display:none}",
    "javascript:window.hacked=1",
    "]]><!--<script>window.hacked=1</script>-->",
    "<meta http-equiv=refresh content=0;url=javascript:window.hacked=1><base href=//192.0.2.1/>",
)
