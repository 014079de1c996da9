package longpoll

import (
	"bytes"
	"reflect"
	"testing"

	"bennu.example/serializer"
)

// An encoded message is parsed to the same message. Other data causes an error and no panic.
func FuzzPeerMessage(f *testing.F) {
	m := peerMessage{kind: peerPost, from: tokenID{1}, call: 2, session: tokenID{3}, number: 4, total: 500, offset: 6}
	m.data = packParts([]part{{serializer.OpText, []byte("[1]")}, {serializer.OpBinary, nil}})
	f.Add(m.append(nil))
	f.Add([]byte{peerVersion})
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parsePeer(data)
		if err != nil {
			return
		}
		again, err := parsePeer(m.append(nil))
		if err != nil || !reflect.DeepEqual(m, again) {
			t.Errorf("%+v became %+v, %v", m, again, err)
		}
		parts, err := unpackParts(m.data)
		frames, err2 := unpackFrames(m.data)
		if (err == nil) != (err2 == nil) || len(parts) != len(frames) {
			t.Errorf("%d parts, %v; %d frames, %v", len(parts), err, len(frames), err2)
		}
		for i, p := range parts {
			if p.op != frames[i].Op || !bytes.Equal(p.data, frames[i].Data) {
				t.Errorf("part %d: %v, frame %v", i, p, frames[i])
			}
		}
	})
}

// noPeers is a Peers that delivers nothing.
type noPeers struct{}

func (noPeers) Listen(string, func([]byte)) (stop func()) { return func() {} }
func (noPeers) Send(string, []byte) error                 { return nil }

// A node may send any message at any time. A call ignores those that it does not wait for.
func TestUnexpectedPeerMessages(t *testing.T) {
	t.Parallel()
	s := NewServer(Config{Secret: []byte("secret"), Peers: noPeers{}})
	defer s.Close()
	node := tokenID{1}
	for _, p := range []*poll{nil, {}} {
		c := s.cluster.call(node, p)
		for kind := range peerBusy + 2 {
			s.cluster.receive((&peerMessage{kind: kind, from: node, call: c.id}).append(nil))
		}
		c.end()
	}
}
