package boltengine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"reflect"
	"strings"
	"testing"

	"bennu.example/history"
	"bennu.example/serializer"
)

func someTopic() topic {
	return topic{
		number: 7, generation: 3, top: 20, topTag: tag{'a', 'b', 'c', 'd'}, first: 11, before: tag{'0', '1', '2', 'z'},
		floor: 9, bytes: 1234, last: 1_700_000_000_000, age: 3_600_000, due: 1_700_003_600_000,
	}
}

func TestTopicEncoding(t *testing.T) {
	want := someTopic()
	key := topicKey("room:lobby")
	data := want.encode(key)
	if got, err := parseTopic(key, data); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := parseTopic(topicKey("room:other"), data); !errors.Is(err, errDamaged) {
		t.Errorf("under another key: %v", err)
	}
	for i := range data {
		broken := bytes.Clone(data)
		broken[i] ^= 0x10
		if _, err := parseTopic(key, broken); !errors.Is(err, errDamaged) {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
	for name, change := range map[string]func(*topic){
		"floor 0":               func(t *topic) { t.floor = 0 },
		"floor after first":     func(t *topic) { t.floor = t.first + 1 },
		"first after top":       func(t *topic) { t.first = t.top + 2 },
		"offset too large":      func(t *topic) { t.top = maxOffset + 1 },
		"generation too large":  func(t *topic) { t.generation = maxGeneration + 1 },
		"invalid tag":           func(t *topic) { t.topTag[2] = 'A' },
		"invalid tag of before": func(t *topic) { t.before[0] = '-' },
	} {
		broken := want
		change(&broken)
		if _, err := parseTopic(key, broken.encode(key)); !errors.Is(err, errDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRecordEncoding(t *testing.T) {
	for _, r := range []history.Record{
		{Event: "e"},
		{Event: "e", ID: strings.Repeat("i", 64), From: "f", Origin: "o", Payload: serializer.Value(map[string]int{"n": 1})},
		{Event: "e", Payload: serializer.Binary([]byte{0, 1, 2})},
	} {
		s, want, err := encodeRecord(r)
		if err != nil {
			t.Fatal(err)
		}
		k := keyOf(1, 2)
		s.seal(k[:], tag{'a', 'b', 'c', 'd'}, 5, 1_700_000_000_123)
		if !s.valid(k[:]) || s.tag() != (tag{'a', 'b', 'c', 'd'}) || s.stamp() != 5 || string(s.id()) != r.ID ||
			s.payload() != len(want.Payload.Bytes()) {
			t.Errorf("%+v: header %v", r, s[:recordHeader])
		}
		got, err := s.record()
		if err != nil || got.Time.UnixMilli() != 1_700_000_000_123 {
			t.Errorf("got %v, %v", got.Time, err)
		}
		if got.Time = want.Time; !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if other := keyOf(1, 3); s.valid(other[:]) {
			t.Error("valid under another key")
		}
		for i := range s {
			broken := bytes.Clone(s)
			broken[i] ^= 0x10
			if stored(broken).valid(k[:]) {
				t.Errorf("valid with a changed byte %d", i)
			}
			if s[:i].valid(k[:]) {
				t.Errorf("valid with %d bytes", i)
			}
		}
	}
}

func TestEpochs(t *testing.T) {
	for generation, want := range map[uint64]string{
		0: "abcdefgh", 1: "abcdefgh1", 36: "abcdefgh10", maxGeneration: "abcdefghzzzzzzzz",
	} {
		got := epochOf("abcdefgh", generation)
		if got != want {
			t.Errorf("%d: got %s, want %s", generation, got, want)
		}
		if _, err := history.NewPosition(got, 1, "abcd"); err != nil {
			t.Error(err)
		}
	}
}

// reseal makes the checksums of fuzzed data right, so that the fuzzer gets behind them.
func reseal(data, key []byte) []byte {
	s := bytes.Clone(data)
	if len(s) > recordHeader {
		sum := stored(s).sum(key)
		s[0], s[1], s[2], s[3] = byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum)
	}
	return s
}

func FuzzStored(f *testing.F) {
	r := history.Record{Event: "e", ID: "id", From: "f", Payload: serializer.Value(map[string]int{"n": 1})}
	s, _, err := encodeRecord(r)
	if err != nil {
		f.Fatal(err)
	}
	k := keyOf(1, 2)
	s.seal(k[:], newTag(), 5, 6)
	f.Add([]byte(s))
	f.Add([]byte(s[:recordHeader+1]))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, s := range []stored{data, reseal(data, k[:])} {
			if !s.valid(k[:]) {
				continue
			}
			_, _, _, _ = s.stamp(), s.payload(), s.id(), s.rest()
			r, err := s.record()
			if err != nil {
				if !errors.Is(err, errDamaged) {
					t.Error(err)
				}
				continue
			}
			again, parsed, err := encodeRecord(r)
			if err != nil {
				t.Fatal(err)
			}
			if parsed.Event != r.Event || parsed.ID != r.ID || !bytes.Equal(parsed.Payload.Bytes(), r.Payload.Bytes()) ||
				!bytes.Equal(again.id(), s.id()) {
				t.Errorf("%+v was encoded as %+v", r, parsed)
			}
		}
	})
}

func FuzzTopic(f *testing.F) {
	key := topicKey("t")
	valid := someTopic()
	f.Add(valid.encode(key))
	f.Add([]byte{topicVersion})
	f.Fuzz(func(t *testing.T, data []byte) {
		sealed := bytes.Clone(data)
		if end := len(data) - 4; end >= 0 { // the checksum is right, so that the fuzzer gets behind it
			sum := crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, data[:end])
			sealed = binary.BigEndian.AppendUint32(sealed[:end], sum)
		}
		got, err := parseTopic(key, sealed)
		if err != nil {
			if !errors.Is(err, errDamaged) {
				t.Error(err)
			}
			return
		}
		if !bytes.Equal(got.encode(key), sealed) {
			t.Errorf("%+v has another encoding", got)
		}
		if got.first < got.floor || got.top > maxOffset || got.top+1 < got.first {
			t.Errorf("impossible offsets: %+v", got)
		}
	})
}

func FuzzSweep(f *testing.F) {
	f.Add(sweepKey(1, 2), append([]byte{sweepTopic}, "troom"...))
	f.Add(sweepKey(1, 2), encodeRange(3, 4))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		got, err := parseSweep(key, value)
		if err != nil {
			if !errors.Is(err, errDamaged) {
				t.Error(err)
			}
			return
		}
		if got.due >= 0 && !bytes.Equal(sweepKey(got.due, got.number), key) {
			t.Errorf("%+v has another key", got)
		}
		if got.topic == nil && !bytes.Equal(encodeRange(got.from, got.to), value) {
			t.Errorf("%+v has another encoding", got)
		}
	})
}

func FuzzEpoch(f *testing.F) {
	f.Add([]byte{0, 1}, []byte{0, 0, 0, 0, 0, 0, 0, 2})
	f.Fuzz(func(t *testing.T, key, value []byte) {
		slot, generation, err := parseEpoch(key, value)
		if err == nil && (slot < 0 || slot >= slots || generation > maxGeneration) {
			t.Errorf("slot %d, generation %d", slot, generation)
		}
	})
}
