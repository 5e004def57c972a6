package ort

// What an ONNX file says of its inputs and outputs, read from its bytes: ONNX Runtime tells it only by a path or by a
// session of its own, and the bytes that were verified are the ones to ask. Field numbers are those of onnx.proto.

import (
	"slices"

	onnx "github.com/yalue/onnxruntime_go"
	"google.golang.org/protobuf/encoding/protowire"
)

// readInterface is what the graph in data takes and gives, in the order of the file. Weights that old files list among
// their inputs are left out, as ONNX Runtime does. A dimension that is not fixed is -1. Dimensions are nil where the
// file declares no shape; ONNX Runtime then infers one, which the first run shows.
func readInterface(data []byte) (inputs, outputs []onnx.InputOutputInfo, err error) {
	var weights []string
	inGraph := func(number protowire.Number, value []byte, _ uint64) error {
		switch number {
		case 5: // initializer
			name, err := textField(value, 8)
			weights = append(weights, name)
			return err
		case 11:
			info, err := readValueInfo(value)
			inputs = append(inputs, info)
			return err
		case 12:
			info, err := readValueInfo(value)
			outputs = append(outputs, info)
			return err
		}
		return nil
	}
	err = eachField(data, func(number protowire.Number, value []byte, _ uint64) error {
		if number != 7 { // graph; where there are several, protobuf joins their fields
			return nil
		}
		return eachField(value, inGraph)
	})
	if err != nil {
		return nil, nil, err
	}
	inputs = slices.DeleteFunc(inputs, func(i onnx.InputOutputInfo) bool { return slices.Contains(weights, i.Name) })
	return inputs, outputs, nil
}

// readValueInfo reads a ValueInfoProto. Element types of onnx.proto have the numbers of ONNX Runtime's.
func readValueInfo(b []byte) (onnx.InputOutputInfo, error) {
	info := onnx.InputOutputInfo{OrtValueType: onnx.ONNXTypeUnknown}
	name, err := textField(b, 1)
	if err != nil {
		return info, err
	}
	info.Name = name
	dimension := func(number protowire.Number, value []byte, _ uint64) error {
		if number != 1 { // dim
			return nil
		}
		size := int64(-1)
		err := eachField(value, func(number protowire.Number, value []byte, v uint64) error {
			if number == 1 && value == nil && int64(v) >= 0 { // dim_value
				size = int64(v)
			}
			return nil
		})
		info.Dimensions = append(info.Dimensions, size)
		return err
	}
	tensor := func(number protowire.Number, value []byte, v uint64) error {
		switch {
		case number == 1 && value == nil: // elem_type
			info.DataType = onnx.TensorElementDataType(v)
		case number == 2 && value != nil: // shape
			info.Dimensions = onnx.Shape{}
			return eachField(value, dimension)
		}
		return nil
	}
	err = eachField(b, func(number protowire.Number, value []byte, _ uint64) error {
		if number != 2 { // type
			return nil
		}
		return eachField(value, func(number protowire.Number, value []byte, _ uint64) error {
			if number != 1 { // tensor_type
				return nil
			}
			info.OrtValueType = onnx.ONNXTypeTensor
			return eachField(value, tensor)
		})
	})
	return info, err
}

// textField is the value of a string field of a message; the last one counts.
func textField(b []byte, field protowire.Number) (string, error) {
	var text string
	err := eachField(b, func(number protowire.Number, value []byte, _ uint64) error {
		if number == field {
			text = string(value)
		}
		return nil
	})
	return text, err
}

// eachField calls do with each field of a message: with the bytes of one that has a length (not nil, even when empty),
// or else with the number of a varint.
func eachField(b []byte, do func(number protowire.Number, value []byte, v uint64) error) error {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errNotProtobuf
		}
		b = b[n:]
		var value []byte
		var v uint64
		switch kind {
		case protowire.BytesType:
			value, n = protowire.ConsumeBytes(b)
			if value == nil {
				value = []byte{}
			}
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(b)
		default:
			n = protowire.ConsumeFieldValue(number, kind, b)
		}
		if n < 0 {
			return errNotProtobuf
		}
		if err := do(number, value, v); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
