"""DICOM series made up from nothing: one file a slice, as a scanner sends them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def write_series(
    folder: Path,
    data: NDArray[np.generic],
    spacing: tuple[float, float, float],
    *,
    number: int = 2,
    description: str = "t1_mprage_sag",
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "M", "NORM"),
    three_d: bool = True,
) -> None:
    """Write axial slices of a volume in RAS+ order, shape ``(X, Y, Z)``, as unsigned 16-bit DICOM files."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    folder.mkdir(parents=True, exist_ok=True)
    study, series, frame = (f"1.2.826.0.1.3680043.8.498.{part}{number}" for part in (7, 8, 9))
    voxels = np.round(data / data.max() * 3000).astype(np.uint16)
    for z in range(voxels.shape[2]):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        meta.MediaStorageSOPInstanceUID = f"{series}.{z + 1}"
        d = pydicom.Dataset()
        d.file_meta = meta
        d.SOPClassUID, d.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID = study, series, frame
        d.Modality, d.Manufacturer, d.MagneticFieldStrength = "MR", "SIEMENS", 3
        d.PatientName, d.PatientID, d.StudyID = "Nobody^Anna", "1234", "1"
        d.StudyDate, d.StudyTime, d.SeriesTime, d.AcquisitionTime = "20200101", "120000", "120000", "120000"
        d.SeriesNumber, d.AcquisitionNumber, d.InstanceNumber = number, 1, z + 1
        d.SeriesDescription = d.ProtocolName = description
        d.ImageType = list(image_type)
        d.MRAcquisitionType = "3D" if three_d else "2D"
        d.ScanningSequence, d.EchoTime, d.RepetitionTime, d.FlipAngle = "GR", 2.5, 2000, 8
        # Rows run along y, columns along x, in the patient's LPS axes.
        d.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        d.ImagePositionPatient = [-100.0, -100.0, -80.0 + z * spacing[2]]
        d.PixelSpacing, d.SliceThickness, d.SpacingBetweenSlices = [spacing[1], spacing[0]], spacing[2], spacing[2]
        d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
        d.Rows, d.Columns = voxels.shape[1], voxels.shape[0]
        d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 0
        # R and A grow where L and P fall: the array is turned by half a circle about the third axis.
        d.PixelData = np.ascontiguousarray(voxels[::-1, ::-1, z].T).tobytes()
        pydicom.dcmwrite(folder / f"{number:03d}-{z:04d}.dcm", d, enforce_file_format=True)
