package boltengine

import (
	"encoding/hex"
	"errors"
	"reflect"
	"slices"
	"testing"

	"bennu.example/history"
	"bennu.example/state"
)

// The values in files of earlier versions can be read: their encoding does not change.
func TestStateEncoding(t *testing.T) {
	key := []byte("key")
	p, err := history.NewPosition("epoch", 7, "0z0z")
	if err != nil {
		t.Fatal(err)
	}
	o := object{
		number: 300, epoch: "epoch", tag: tag{'0', 'z', '0', 'z'}, rev: 7, first: 2, scanned: 3, floor: 4, items: 5,
		bytes: 600, keep: 1000, idFirst: 8, idNext: 9, expires: 1 << 40,
	}
	it := storedItem{rev: 7, tag: o.tag, deleted: "expired", expires: 1 << 40, writer: "w", value: []byte(`"v"`)}
	r := revision{tag: o.tag, at: 1 << 40, deletes: true, under: true, key: "k"}
	id := rememberedID{number: 8, at: 1 << 40, applied: state.Applied{
		Revs: []uint64{6, 7}, Prev: p, Position: p, Items: []state.Item{
			{Key: "k", From: "f", Rev: 7, Deleted: "deleted", Expires: timeOf(1 << 40), Writer: "w", Under: true},
		},
	}}
	for _, test := range []struct {
		name  string
		value any
		bytes []byte
		parse func(value []byte) (any, error)
		hex   string
	}{
		{
			"object", o, o.encode(key), func(v []byte) (any, error) { return parseObject(key, v) },
			"ac020565706f636804307a307a0702030405d804e80708098080808080200511d3ec",
		},
		{
			"item", it, it.encode(key), func(v []byte) (any, error) { return parseItem(key, v) },
			"0704307a307a0765787069726564808080808020017703227622020b7b2c",
		},
		{
			"revision", r, r.encode(key), func(v []byte) (any, error) { return parseRevision(key, v) },
			"04307a307a80808080802003016b2f23a3ba",
		},
		{
			"ID", id, id.encode(key), func(v []byte) (any, error) { return parseID(key, v) },
			"088080808080200c65706f63682d372d307a307a0c65706f63682d372d307a307a02060701016b016607076465" +
				"6c6574656480808080802001770182ff0230",
		},
	} {
		if got := hex.EncodeToString(test.bytes); got != test.hex {
			t.Errorf("%s is %s, want %s", test.name, got, test.hex)
		}
		if got, err := test.parse(test.bytes); err != nil || !reflect.DeepEqual(got, test.value) {
			t.Errorf("%s was read as %+v, %v", test.name, got, err)
		}
		for n := range test.bytes {
			if _, err := test.parse(test.bytes[:n]); !errors.Is(err, errDamaged) {
				t.Errorf("%d bytes of %s: %v", n, test.name, err)
			}
		}
		short := sealed(slices.Clone(test.bytes[:len(test.bytes)-5]), key)
		if _, err := test.parse(short); !errors.Is(err, errDamaged) {
			t.Errorf("%s without its end: %v", test.name, err)
		}
	}
}
