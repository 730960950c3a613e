"use strict";
/* A photograph: by the phone's own camera app, or in a dialog by a camera of the computer. */
cnncodes.camera = (() => {
  const dialog = document.getElementById("camera");
  const capture = document.getElementById("capture");
  const video = dialog.querySelector("video");

  function fromPhone() {
    return new Promise((resolve) => {
      capture.onchange = () => {
        resolve([...capture.files]);
        capture.value = "";
      };
      capture.oncancel = () => resolve([]);
      capture.click();
    });
  }

  async function fromDialog() {
    const stream = await navigator.mediaDevices
      .getUserMedia({ video: { width: { ideal: 1920 }, facingMode: "environment" } })
      .catch((error) => {
        throw error.name === "NotFoundError" ? new Error("No camera found.") : error;
      });
    video.srcObject = stream;
    const taken = new Promise((resolve) => { // before the dialog opens, so that no click is lost
      dialog.querySelector(".take").onclick = () => resolve(true);
      dialog.querySelector(".close").onclick = () => resolve(false);
      dialog.oncancel = () => resolve(false);
    });
    dialog.showModal();
    // A browser that saves power may refuse; there is a frame all the same.
    video.play().catch(() => {});
    const isTaken = await taken;
    const photo = isTaken ? await frame() : null;
    stream.getTracks().forEach((track) => track.stop());
    dialog.close();
    return photo ? [photo] : [];
  }

  async function frame() {
    if (video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA) {
      await new Promise((resolve) => { video.onloadeddata = resolve; });
    }
    const canvas = document.createElement("canvas");
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext("2d").drawImage(video, 0, 0);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    const time = new Date().toISOString().slice(0, 19).replaceAll(":", "-");
    return new File([blob], `photo ${time}.png`, { type: blob.type });
  }

  /** Return the photographs that were taken; throws an Error where there is no camera. */
  function take() {
    // A phone's own app is better. Browsers have no camera for pages without HTTPS, but localhost.
    const isPhone = matchMedia("(pointer: coarse)").matches;
    return isPhone || !navigator.mediaDevices ? fromPhone() : fromDialog();
  }

  return { take };
})();
