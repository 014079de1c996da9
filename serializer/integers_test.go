package serializer_test

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"testing"

	"bennu.example/serializer"
)

// bigIntegers is a payload with integers that a float64 cannot hold, and with some other numbers.
const bigIntegers = `{"a":[9007199254740993,-9007199254740993,{"b":9223372036854775807}],"c":18446744073709551615,` +
	`"d":-9223372036854775808,"e":[0,-1,9007199254740992,1.5,1e+300],"f":"9007199254740993"}`

// TestIntegersKeepTheirValue receives a payload in each version, decodes it into an interface, and
// sends it to a client of each other version and back.
func TestIntegersKeepTheirValue(t *testing.T) {
	t.Parallel()
	for _, first := range serializer.Default() {
		for _, second := range serializer.Default() {
			for _, kind := range []serializer.Kind{serializer.KindPush, serializer.KindReply, serializer.KindBroadcast} {
				t.Run(fmt.Sprintf("%s to %s, kind %d", serializer.Vsn(first), serializer.Vsn(second), kind), func(t *testing.T) {
					t.Parallel()
					payload := serializer.Value(json.RawMessage(bigIntegers))
					for range 3 {
						payload = passOn(t, payload, func(m *serializer.Message) serializer.Message {
							m.Kind = serializer.KindRequest
							op, data, err := first.Append(nil, m)
							return reparsed(t, err, first.Parse, op, data)
						})
						payload = passOn(t, payload, func(m *serializer.Message) serializer.Message {
							if m.Kind = kind; kind == serializer.KindReply {
								m.Status = "ok"
							}
							op, data, err := second.Append(nil, m)
							return reparsed(t, err, second.ParseClient, op, data)
						})
					}
					got, err := payload.JSON()
					if err != nil || string(got) != bigIntegers {
						t.Errorf("%s %v", got, err)
					}
				})
			}
		}
	}
}

// passOn sends a payload in a message and returns the value that the receiver decodes from it.
func passOn(t *testing.T, p serializer.Payload, over func(*serializer.Message) serializer.Message) serializer.Payload {
	t.Helper()
	got := over(&serializer.Message{Ref: `"2"`, JoinRef: `"1"`, Topic: "t", Event: "e", Payload: p})
	var v any
	if err := got.Payload.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return serializer.Value(v)
}

func reparsed(t *testing.T, err error, parse func(serializer.Op, []byte) (serializer.Message, error),
	op serializer.Op, data []byte) serializer.Message {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	m, err := parse(op, data)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestGoIntegersKeepTheirValue sends Go integers in interfaces.
func TestGoIntegersKeepTheirValue(t *testing.T) {
	t.Parallel()
	value := map[string]any{"i": int64(math.MinInt64), "u": uint64(math.MaxUint64),
		"n": json.Number("9007199254740993"), "f": 0.5}
	const want = `{"f":0.5,"i":-9223372036854775808,"n":9007199254740993,"u":18446744073709551615}`
	for _, s := range serializer.Default() {
		op, data, err := s.Append(nil, &serializer.Message{Ref: `"1"`, Topic: "t", Event: "e",
			Payload: serializer.Value(value)})
		m := reparsed(t, err, s.Parse, op, data)
		var v map[string]any
		if err := m.Payload.Decode(&v); err != nil {
			t.Fatal(err)
		}
		if got, err := serializer.Value(v).JSON(); err != nil || string(got) != want {
			t.Errorf("%s: %s %v", serializer.Vsn(s), got, err)
		}
	}
}

// TestDecodedNumberTypes holds the Go types of decoded numbers, since programs switch on them.
func TestDecodedNumberTypes(t *testing.T) {
	t.Parallel()
	for _, s := range serializer.Default() {
		op, data, err := s.Append(nil, &serializer.Message{
			Ref: `"1"`, Topic: "t", Event: "e",
			Payload: serializer.Value(json.RawMessage(`{"v":[1,0.5,9007199254740992,9007199254740993]}`)),
		})
		m := reparsed(t, err, s.Parse, op, data)
		var v struct{ V any }
		if err := m.Payload.Decode(&v); err != nil {
			t.Fatal(err)
		}
		if want := []any{1., .5, 9007199254740992., json.Number("9007199254740993")}; !reflect.DeepEqual(v.V, want) {
			t.Errorf("%s: %#v", serializer.Vsn(s), v.V)
		}
	}
}
