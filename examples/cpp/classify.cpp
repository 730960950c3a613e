// Classify JPEG, PNG, BMP and GIF by an app of cnncodes; print probability, label (JSON), photo.
//
//     apt install g++ libonnxruntime-dev libstb-dev libexif-dev
//     g++ -O2 -std=c++17 -I/usr/include/onnxruntime classify.cpp -lonnxruntime -lexif -o classify
//     ./classify app.onnx PHOTO... | sort -rn

#define STB_IMAGE_IMPLEMENTATION
#include <libexif/exif-data.h>
#include <onnxruntime_cxx_api.h>
#include <stb/stb_image.h>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>

using Bytes = std::vector<uint8_t>;

// Return the orientation in a JPEG's EXIF data, from '1' to '8'.
char orientation_of(const Bytes &file) {
    ExifData *exif = exif_data_new_from_data(file.data(), file.size());
    ExifEntry *entry = exif_content_get_entry(exif->ifd[EXIF_IFD_0], EXIF_TAG_ORIENTATION);
    char value = entry ? '0' + exif_get_short(entry->data, exif_data_get_byte_order(exif)) : '1';
    exif_data_unref(exif);
    return value;
}

// Decode an image, turn it upright, lay it on white, resize it by antialiased bilinear weights.
Bytes pixels_of(const Bytes &file, int size) {
    if (stbi_is_16_bit_from_memory(file.data(), file.size())) throw std::runtime_error("16 bits");
    int width, height, channels;
    uint8_t *rgba = stbi_load_from_memory(file.data(), file.size(), &width, &height, &channels, 4);
    if (!rgba) throw std::runtime_error(stbi_failure_reason());
    double scale_x = double(width) / size, reach_x = std::max(scale_x, 1.0);
    double scale_y = double(height) / size, reach_y = std::max(scale_y, 1.0);
    char orientation = orientation_of(file);
    Bytes pixels;
    for (int i = 0; i < size * size; i++) {
        int row = i / size, column = i % size;
        if (orientation > '4') std::swap(row, column);
        if (strchr("3467", orientation)) row = size - 1 - row;
        if (strchr("2378", orientation)) column = size - 1 - column;
        double x = (column + 0.5) * scale_x - 0.5, y = (row + 0.5) * scale_y - 0.5;
        double total = 0, sums[3] = {0, 0, 0};
        for (int j = fmax(ceil(y - reach_y), 0); j <= y + reach_y && j < height; j++)
            for (int k = fmax(ceil(x - reach_x), 0); k <= x + reach_x && k < width; k++) {
                double weight = (1 - std::abs(j - y) / reach_y) * (1 - std::abs(k - x) / reach_x);
                uint8_t *pixel = rgba + (size_t(j) * width + k) * 4;
                for (int c = 0; c < 3; c++)
                    sums[c] += weight * (255 + (pixel[c] - 255) * pixel[3] / 255.0);
                total += weight;
            }
        for (double sum : sums) pixels.push_back(std::lround(sum / total));
    }
    stbi_image_free(rgba);
    return pixels;
}

int main(int n, char **arguments) {
    if (n < 3) return puts("classify app.onnx PHOTO..."), 2;
    Ort::Env environment;
    Ort::Session app(environment, arguments[1], Ort::SessionOptions());
    Ort::AllocatorWithDefaultOptions heap;
    std::string labels =
        app.GetModelMetadata().LookupCustomMetadataMapAllocated("cnncodes.labels", heap).get();
    int64_t size = app.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape()[1], end;
    int64_t shape[] = {1, size, size, 3};
    const char *input = "images", *output = "probabilities";
    for (char **path = arguments + 2; path < arguments + n; path++) {
        std::ifstream stream(*path, std::ios::binary);
        Bytes pixels = pixels_of(Bytes(std::istreambuf_iterator<char>(stream), {}), size);
        auto images = Ort::Value::CreateTensor(heap.GetInfo(), &pixels[0], pixels.size(), shape, 4);
        auto answers = app.Run({}, &input, &images, 1, &output, 1);
        const float *share = answers[0].GetTensorData<float>();
        for (size_t start = 1; start < labels.size(); start = labels.find('"', end + 1)) {
            for (end = start + 1; labels[end] != '"'; end++) end += labels[end] == '\\';
            printf("%f %s %s\n", *share++, labels.substr(start, end - start + 1).c_str(), *path);
        }
    }
}
