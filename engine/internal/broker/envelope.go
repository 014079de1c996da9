package broker

import (
	"encoding/binary"

	"github.com/google/uuid"
)

// An envelope is what the engine carries: a kind, which is the format's version as well, the sender's id, the number of its connection, and
// the body.
const (
	kindMessage = 1 // the body is what Publish was given
	kindLost    = 2 // the sender may have lost messages; the body is its name
	kindProbe   = 3 // see appendProbe
	kindBye     = 4 // the sender's last probe

	epochAt    = 1 + len(uuid.UUID{})
	headerSize = epochAt + 4
)

// newEnvelope begins a message with room for a body. Its epoch is set when it is sent.
func newEnvelope(kind byte, from uuid.UUID, size int) []byte {
	data := make([]byte, headerSize, headerSize+size)
	data[0] = kind
	copy(data[1:], from[:])
	return data
}

func setEpoch(data []byte, epoch uint32) { binary.BigEndian.PutUint32(data[epochAt:], epoch) }

// envelope is one that was taken apart.
type envelope struct {
	kind  byte
	from  uuid.UUID
	epoch uint32
	body  []byte
}

func parseEnvelope(data []byte) (e envelope, ok bool) {
	if len(data) < headerSize {
		return e, false
	}
	e.kind = data[0]
	copy(e.from[:], data[1:])
	e.epoch = binary.BigEndian.Uint32(data[epochAt:])
	e.body = data[headerSize:]
	return e, kindMessage <= e.kind && e.kind <= kindBye
}
