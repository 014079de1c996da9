package channel

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"time"

	"bennu.example/push"
	"bennu.example/serializer"
)

// onceKey is the key of a push in the store: the client, the client and the topic, and everything
// that identifies the push, as hashes.
func onceKey(c *Channel, event, id string) string {
	subject, client, connection := c.up.Identity()
	var room [512]byte
	b := appendField(appendField(room[:0], subject), client)
	if subject == "" && client == "" {
		b = appendField(b, connection)
	}
	owner := sha256.Sum256(b)
	b = appendField(b, c.topic)
	inTopic := sha256.Sum256(b)
	b = appendField(appendField(b, event), id)
	push := sha256.Sum256(b)
	// The first two group keys only, so that a half of them is enough.
	encoding := base64.RawURLEncoding
	key := append(encoding.AppendEncode(make([]byte, 0, 96), owner[:16]), '.')
	key = append(encoding.AppendEncode(key, inTopic[:16]), '.')
	return string(encoding.AppendEncode(key, push[:]))
}

// appendField appends a text with its length before it.
func appendField(b []byte, text string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// onceDone stands for a reply that is too large to be recorded.
var onceDone = []byte{'d'}

// encodeOnce encodes a reply as the store has it: 'j' for JSON or 'b' for binary, the status with
// its length, and the payload.
func encodeOnce(reply push.Reply) ([]byte, error) {
	status := reply.Status
	if status == "" {
		status = push.StatusOK
	}
	form, payload := byte('j'), serializer.Value(reply.Payload)
	body := payload.Bytes()
	if payload.IsBinary() {
		form = 'b'
	} else {
		var err error
		if body, err = payload.JSON(); err != nil {
			return nil, err
		}
	}
	if len(status)+len(body) > maxOnceBody {
		return onceDone, nil
	}
	b := appendField(append(make([]byte, 0, len(status)+len(body)+4), form), status)
	return append(b, body...), nil
}

// decodeOnce is the reverse of encodeOnce. A reply that it cannot decode becomes replyOnceDone.
func decodeOnce(b []byte) push.Reply {
	if len(b) == 0 || b[0] != 'j' && b[0] != 'b' {
		return replyOnceDone
	}
	size, n := binary.Uvarint(b[1:])
	rest := b[1+max(n, 0):]
	if n <= 0 || size > uint64(len(rest)) {
		return replyOnceDone
	}
	status, body := string(rest[:size]), rest[size:]
	if b[0] == 'b' {
		return push.Reply{Status: status, Payload: serializer.Binary(body)}
	}
	var p serializer.Payload
	_ = p.UnmarshalJSON(body) // copies, and never fails
	return push.Reply{Status: status, Payload: p}
}

// cutOnce takes the member "$once" out of the params of a join. The value does not matter.
func cutOnce(params serializer.Payload) (rest serializer.Payload, asked bool) {
	if !mayHave(params, memberOnce) {
		return params, false
	}
	_, rest, asked = params.Cut(memberOnce)
	return rest, asked
}

// onceReply adds the window to the reply of a join that asked for it. A reply that is not an object
// has no room for it.
func (o *once) joinReply(reply serializer.Payload) serializer.Payload {
	if _, err := reply.HasReserved(); err != nil {
		return reply
	}
	return reply.With(memberOnce, map[string]int64{"window": int64(o.window / time.Millisecond)})
}
