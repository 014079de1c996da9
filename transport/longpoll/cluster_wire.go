package longpoll

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"

	"bennu.example/serializer"
)

// peerVersion begins every message between nodes. A message of another version is ignored.
const peerVersion = 1

// peerKind is the kind of a message between nodes.
type peerKind byte

const (
	// Messages of the node that has the request:
	peerPoll   peerKind = iota + 1 // session: wait for messages
	peerMore                       // offset: request the answer from there on
	peerTake                       // the answer is complete: request permission to write it
	peerSettle                     // number is 1 if the answer was written; 0 also ends a call
	peerPost                       // session, total, offset, data: a part of the messages

	// Messages of the node that has the session:
	peerWait   // the request was received, a response will follow
	peerGone   // there is no such session or call
	peerAnswer // total, offset, data: a part of the messages; total is 0 if there are none
	peerTaken  // permission to write the answer
	peerAbort  // a newer poll arrived: abort writing if possible
	peerLater  // a newer poll arrived: this one gets no messages
	peerNext   // request the next part of the messages
	peerStatus // number: the status of the answer to the POST
	peerBusy   // there is no room for the POST: it may be sent again, as a new call
)

// peerMessage is a message between nodes. Its kind determines which fields are used.
type peerMessage struct {
	kind                  peerKind
	from                  tokenID // the sender
	call                  uint64  // the number of the call, of the node that has the request
	session               tokenID
	number, total, offset uint64
	data                  []byte
}

// peerHeader is the size of the fields before the numbers.
const peerHeader = 1 + 1 + tokenIDSize + 8 + tokenIDSize

var errPeer = errors.New("longpoll: malformed message of a peer")

// append appends the encoded message to dst.
func (m *peerMessage) append(dst []byte) []byte {
	dst = append(dst, peerVersion, byte(m.kind))
	dst = append(dst, m.from[:]...)
	dst = binary.BigEndian.AppendUint64(dst, m.call)
	dst = append(dst, m.session[:]...)
	for _, n := range []uint64{m.number, m.total, m.offset} {
		dst = binary.AppendUvarint(dst, n)
	}
	return append(dst, m.data...)
}

// parsePeer parses an encoded message. The message's data aliases data.
func parsePeer(data []byte) (m peerMessage, err error) {
	if len(data) < peerHeader || data[0] != peerVersion {
		return m, errPeer
	}
	m.kind = peerKind(data[1])
	data = data[2:]
	data = data[copy(m.from[:], data):]
	m.call = binary.BigEndian.Uint64(data)
	data = data[8:]
	data = data[copy(m.session[:], data):]
	for _, n := range []*uint64{&m.number, &m.total, &m.offset} {
		v, size := binary.Uvarint(data)
		if size <= 0 {
			return m, errPeer
		}
		*n = v
		data = data[size:]
	}
	m.data = slices.Clip(data)
	return m, nil
}

// appendItem appends one message of an answer or of a POST.
func appendItem(dst []byte, op serializer.Op, data []byte) []byte {
	dst = append(dst, byte(op))
	dst = binary.AppendUvarint(dst, uint64(len(data)))
	return append(dst, data...)
}

// parseItems calls f for each message. The messages alias data.
func parseItems(data []byte, f func(op serializer.Op, data []byte)) error {
	for len(data) > 0 {
		n, size := binary.Uvarint(data[1:])
		if size <= 0 || n > uint64(len(data)-1-size) {
			return errPeer
		}
		item := data[1+size:][:n]
		f(serializer.Op(data[0]), item)
		data = data[1+size+int(n):]
	}
	return nil
}

// packFrames encodes the messages of an answer.
func packFrames(frames []*serializer.Frame) []byte {
	var data []byte
	for _, f := range frames {
		data = appendItem(data, f.Op, f.Data)
	}
	return data
}

// unpackFrames decodes the messages of an answer. They alias data.
func unpackFrames(data []byte) (frames []*serializer.Frame, err error) {
	err = parseItems(data, func(op serializer.Op, data []byte) {
		frames = append(frames, &serializer.Frame{Op: op, Data: data})
	})
	return frames, err
}

// maxPackedBody returns the largest size of the packed messages of a POST.
func (s *Server) maxPackedBody() int64 { return s.cfg.MaxBody + maxParts*(1+binary.MaxVarintLen64) }

// packParts encodes the messages of a POST.
func packParts(parts []part) []byte {
	var data []byte
	for _, p := range parts {
		data = appendItem(data, p.op, p.data)
	}
	return data
}

// unpackParts decodes the messages of a POST. Each has memory of its own, because a session may
// keep it.
func unpackParts(data []byte) (parts []part, err error) {
	err = parseItems(data, func(op serializer.Op, data []byte) {
		parts = append(parts, part{op, bytes.Clone(data)})
	})
	return parts, err
}
