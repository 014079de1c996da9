package websocket

// optNotSentLowat is TCP_NOTSENT_LOWAT, which package syscall does not have.
const optNotSentLowat = 25
