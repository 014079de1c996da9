package websocket

// optNotSentLowat is TCP_NOTSENT_LOWAT, which package syscall does not define.
const optNotSentLowat = 25
