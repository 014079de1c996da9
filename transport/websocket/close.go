package websocket

import (
	"encoding/binary"
	"strings"
	"unicode/utf8"

	"bennu.example/serializer"
	"bennu.example/transport"
)

// maxCloseReason is how many bytes of a reason fit in a close frame.
const maxCloseReason = 123

// closeFrame returns a close frame. It replaces a code that must not be sent by 1011, and truncates
// a reason that does not fit.
func closeFrame(code int, reason string) *serializer.Frame {
	if !sendableCode(code) {
		code = transport.CodeInternal
	}
	reason = closeReason(reason)
	data := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(reason)), uint16(code))
	return &serializer.Frame{Op: opClose, Data: append(data, reason...)}
}

// sendableCode reports whether an endpoint may send a close code.
func sendableCode(code int) bool {
	switch code {
	case 1004, 1005, 1006:
		return false
	}
	return 1000 <= code && code <= 1014 || 3000 <= code && code <= 4999
}

// closeReason returns a reason as valid UTF-8 that fits in a close frame.
func closeReason(reason string) string {
	reason = strings.ToValidUTF8(reason, "\uFFFD")
	if len(reason) <= maxCloseReason {
		return reason
	}
	n := maxCloseReason
	for !utf8.RuneStart(reason[n]) {
		n--
	}
	return reason[:n]
}
