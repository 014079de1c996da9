package broker

import (
	"encoding/binary"

	"github.com/google/uuid"
)

// An envelope is the format of messages at the engine: a kind, which also determines the version of
// the format, the sender's id, the number of the sender's connection, and the body.
const (
	kindMessage = 1 // the body is an encoded pubsub.Broadcast
	kindLost    = 2 // the sender may have lost messages; the body is its name
	kindProbe   = 3 // see appendProbe
	kindLast    = 4 // the last probe of a node that ends

	epochAt    = 1 + len(uuid.UUID{})
	headerSize = epochAt + 4
)

// newEnvelope begins a message with room for a body of the given size. The epoch is set on sending.
func newEnvelope(kind byte, from uuid.UUID, size int) []byte {
	data := make([]byte, headerSize, headerSize+size)
	data[0] = kind
	copy(data[1:], from[:])
	return data
}

func setEpoch(data []byte, epoch uint32) { binary.BigEndian.PutUint32(data[epochAt:], epoch) }

// envelope is a parsed envelope.
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
	return e, kindMessage <= e.kind && e.kind <= kindLast
}
