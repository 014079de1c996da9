package boltengine

import (
	"bytes"
	"time"

	bolt "go.etcd.io/bbolt"

	"bennu.example/will"
)

// bucketWills has the last wills of clients: "w" and the key → value of package will. Files of
// earlier versions do not have it.
var bucketWills = []byte("wills")

func willKey(key string) []byte { return append([]byte{'w'}, key...) }

// openWills returns the store of wills. Zero keep means will.Keep.
func openWills(s *store, keep time.Duration) (will.Store, error) {
	saved := make(map[string][]byte)
	err := s.view(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketWills)
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error {
			saved[string(k[1:])] = bytes.Clone(v)
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return will.NewLocal(saved, s.saveWill, keep)
}

// saveWill stores the value of a key, or removes the key if the value is nil.
func (s *store) saveWill(key string, value []byte) error {
	return s.update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketWills)
		switch {
		case err != nil:
			return err
		case value == nil:
			return b.Delete(willKey(key))
		}
		return b.Put(willKey(key), value)
	})
}
