package longpoll

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"

	"bennu.example/serializer"
)

// peerVersion begins what nodes say to each other. One that speaks another version is as good as not there.
const peerVersion = 1

// peerKind is what a node says to another.
type peerKind byte

const (
	// The node that has the request says:
	peerPoll   peerKind = iota + 1 // session: wait for messages
	peerMore                       // offset: the answer from there on
	peerTake                       // the answer is here: may it be written?
	peerSettle                     // number is 1 if it was; 0 also ends whatever was asked for
	peerPost                       // session, total, offset, data: messages

	// The node that has the session says:
	peerWait   // understood, the rest will follow
	peerGone   // no such session, or no such poll any more
	peerAnswer // total, offset, data: the messages that are there; a total of 0: none came
	peerTaken  // yes, write it
	peerAbort  // do not write it, if that can be helped: a newer poll came
	peerLater  // a newer poll came, this one waits in vain
	peerNext   // the next part of the messages, please
	peerStatus // number: how to answer the POST
)

// peerMessage is what a node says to another. Which fields mean something says its kind.
type peerMessage struct {
	kind                  peerKind
	from                  tokenID // the node that says it
	call                  uint64  // what the node that has the request counts its calls by
	session               tokenID
	number, total, offset uint64
	data                  []byte
}

// peerHeader is the size of what comes before the numbers.
const peerHeader = 1 + 1 + tokenIDSize + 8 + tokenIDSize

var errPeer = errors.New("not from a long-poll peer")

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

// parsePeer reads what append wrote. The message's data aliases data.
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

// parseItems calls f for each message. They alias data.
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

func packFrames(frames []*serializer.Frame) []byte {
	var data []byte
	for _, f := range frames {
		data = appendItem(data, f.Op, f.Data)
	}
	return data
}

func unpackFrames(data []byte) (frames []*serializer.Frame, err error) {
	err = parseItems(data, func(op serializer.Op, data []byte) {
		frames = append(frames, &serializer.Frame{Op: op, Data: data})
	})
	return frames, err
}

func packParts(parts []part) []byte {
	var data []byte
	for _, p := range parts {
		data = appendItem(data, p.op, p.data)
	}
	return data
}

// unpackParts gives each part memory of its own, since a session may keep one of them.
func unpackParts(data []byte) (parts []part, err error) {
	err = parseItems(data, func(op serializer.Op, data []byte) {
		parts = append(parts, part{op, bytes.Clone(data)})
	})
	return parts, err
}
